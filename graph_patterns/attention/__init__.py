"""Attention: canonical nodes to operators."""
