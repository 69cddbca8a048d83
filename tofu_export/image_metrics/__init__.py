"""Similarity of images: by pixels and by network features, pair by pair and as whole sets.

The metrics are those of torchmetrics, on features of torch-fidelity's Inception for whole sets.
"""
