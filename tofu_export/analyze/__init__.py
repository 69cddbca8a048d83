"""What makes a model bear pruning or merging, layer by layer: `tofu-export analyze`."""
