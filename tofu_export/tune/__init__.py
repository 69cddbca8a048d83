"""Find method and r of each layer from unlabelled images, under a budget: `tofu-export tune` (docs/tuning.md)."""
