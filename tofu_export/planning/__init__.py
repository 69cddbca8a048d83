"""Plan a reduction: layer by layer, by a budget, from a file."""
