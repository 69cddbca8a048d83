"""Rewrite what runtimes reject in files of other exporters."""
