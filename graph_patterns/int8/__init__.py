"""Products in int8: smoothing, quantising, checking."""
