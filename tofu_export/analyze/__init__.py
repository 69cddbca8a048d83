"""Measure how well each layer of a model tolerates pruning or merging: `tofu-export analyze`."""
