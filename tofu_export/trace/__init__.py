"""Trace models to canonical graphs, and quantise files."""
