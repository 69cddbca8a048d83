"""Products in int8 or fp8: smoothing, quantisation, checks."""
