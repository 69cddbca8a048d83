"""Programs for those who work on tofu-export; no part of the package."""
