"""Reduction on the grid of a UNet: canonical nodes to operators."""
