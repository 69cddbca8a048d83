"""Spare work and kernels that nothing needs."""
