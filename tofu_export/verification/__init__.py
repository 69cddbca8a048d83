"""Verification of files: against the eager model, or against another file. Importing the package loads nothing."""
