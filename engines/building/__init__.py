"""Build engines."""
