"""Models and weights: names, checkpoints, creation. Importing the package loads neither torch nor timm."""
