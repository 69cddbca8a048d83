"""Lowering of reductions on the grid of a UNet: canonical nodes to operators."""
