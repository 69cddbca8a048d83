"""Lowering of attention: canonical nodes to operators."""
