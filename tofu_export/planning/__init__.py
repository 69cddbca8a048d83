"""Plan a reduction: layer by layer, from a budget, from a file."""
