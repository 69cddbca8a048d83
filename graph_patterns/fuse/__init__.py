"""Token reduction: canonical nodes to operators."""
