"""Metrics of two sets of images: FID and KID, on features of Inception."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tofu_export.errors import WeightsError, first_line
from tofu_export.image_metrics._optional import inception, metric
from tofu_export.image_metrics.result import Kid

__all__ = ["FEATURE", "KID_SUBSETS", "LEAST_IMAGES", "Look", "fid", "inception_look", "kid"]

FEATURE = "2048"
"""Layer of Inception: its last pooling, which FID and KID are defined on."""
LEAST_IMAGES = 2
"""Least number of images on each side: a covariance and an unbiased estimate need two."""
KID_SUBSETS = 100
_KID_SUBSET_SIZE = 1000
"""Number of images of one subset, at most that of the smaller side. Source: the defaults of torchmetrics."""

Look = Callable[[NDArray[np.uint8]], Tensor]
"""Function from images, uint8 [B, 3, H, W], to features [B, D]."""


def inception_look(weights: Path) -> Look:
    """Return the function to Inception's features: float64 [B, 2048].

    Raises:
        BackendMissingError: torch-fidelity is not installed.
        WeightsError: the weights are those of another network.
    """
    try:
        network = inception(weights, FEATURE)
    except RuntimeError as error:
        raise WeightsError(f"{weights} does not hold the weights of Inception: {first_line(error)}") from error

    def look(images: NDArray[np.uint8]) -> Tensor:
        with torch.inference_mode():
            features: Tensor = network(torch.from_numpy(images))[0].double()
        return features

    return look


def fid(a: Iterable[Tensor], b: Iterable[Tensor]) -> float:
    """Return the Fréchet distance between the features of two sets, given in batches [B, D].

    Source: arXiv 1706.08500, equation 6.
    """
    made = _fed("fid", a, b)
    return float(made.compute())


def kid(a: Iterable[Tensor], b: Iterable[Tensor], seed: int) -> Kid:
    """Return the kernel distance between the features of two sets, in batches [B, D]; `seed` draws the subsets.

    Source: arXiv 1801.01401.
    """
    left, right = list(a), list(b)
    size = min(_KID_SUBSET_SIZE, *(sum(map(len, side)) for side in (left, right)))
    made = _fed("kid", left, right, subsets=KID_SUBSETS, subset_size=size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mean, std = made.compute()
    return Kid(float(mean), float(std), KID_SUBSETS, size)


def _fed(name: str, a: Iterable[Tensor], b: Iterable[Tensor], **arguments: Any) -> Any:
    batches = [(batch, real) for side, real in ((a, False), (b, True)) for batch in side]
    made = metric(name, feature=_AsGiven(batches[0][0].shape[1]), **arguments)
    for batch, real in batches:
        made.update(batch, real=real)
    return made


class _AsGiven(nn.Module):
    """Network for torchmetrics that returns given features, so that several metrics share them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features
