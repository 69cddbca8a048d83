"""Describe engines."""
