"""Remove unneeded work and kernels."""
