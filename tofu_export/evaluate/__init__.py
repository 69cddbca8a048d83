"""Evaluate a model, reduced or not, on images: `tofu-export eval`. Importing the package loads nothing."""
