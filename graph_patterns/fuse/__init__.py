"""Lowering of token reduction: canonical nodes to operators."""
