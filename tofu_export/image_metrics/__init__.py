"""How alike images are: pixel by pixel and by what networks see in them, pair by pair and as whole sets.

The metrics are those of torchmetrics, on features of torch-fidelity's Inception for whole sets.
"""
