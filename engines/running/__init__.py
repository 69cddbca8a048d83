"""Run engines on a GPU."""
