"""Metrics of two images of equal size: PSNR, SSIM, MS-SSIM and LPIPS, one value for each pair."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tofu_export.errors import OptionError, WeightsError, first_line
from tofu_export.image_metrics._optional import functional, metric
from tofu_export.image_metrics.weights import served_by_torch

__all__ = ["LPIPS_SIDE", "MS_SSIM_SIDE", "SSIM_SIDE", "PairMetric", "lpips", "ms_ssim", "psnr", "ssim"]

Pixels = NDArray[np.uint8]
PairMetric = Callable[[Pixels, Pixels], float]
"""Function from two images, uint8 [3, H, W], to one number."""

SSIM_SIDE = 6
"""Smallest side for SSIM: its window of 11 pixels extends over the border by 5, which are mirrored."""
MS_SSIM_SIDE = 176
"""Smallest side for MS-SSIM with its five scales, as torchmetrics requires."""
LPIPS_SIDE = {"alex": 31, "squeeze": 17, "vgg": 16}
"""Smallest side for LPIPS, by network: smaller images vanish in pooling."""


def psnr() -> PairMetric:
    """Return the metric PSNR, in decibels over all pixels and channels, for the peak 255; infinite if equal.

    Raises:
        BackendMissingError: torchmetrics is not installed.
    """
    function = functional().peak_signal_noise_ratio
    return lambda a, b: float(function(_doubles(a), _doubles(b), data_range=1.0))


def ssim() -> PairMetric:
    """Return the metric SSIM: Gaussian window of 11 pixels, sigma 1.5, mean of the channels; 1 if equal.

    Raises:
        BackendMissingError: torchmetrics is not installed.

    Source: Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004.
    """
    function = functional().structural_similarity_index_measure
    return lambda a, b: float(function(_doubles(a), _doubles(b), data_range=1.0))


def ms_ssim() -> PairMetric:
    """Return the metric MS-SSIM, structural similarity over five scales; 1 if equal.

    Raises:
        BackendMissingError: torchmetrics is not installed.

    Source: Wang, Simoncelli and Bovik, "Multi-scale structural similarity for image quality assessment", 2003.
    """
    function = functional().multiscale_structural_similarity_index_measure
    return lambda a, b: float(function(_doubles(a), _doubles(b), data_range=1.0))


def lpips(network: str, weights: Path) -> PairMetric:
    """Return the metric LPIPS, version 0.1, the learned perceptual distance by the features of a network; 0 if equal.

    Args:
        network: alex, vgg or squeeze.
        weights: file of the network's weights, under its published name.

    Raises:
        BackendMissingError: torchmetrics is not installed.
        WeightsError: the weights are those of another network.

    Source: arXiv 1801.03924.
    """
    place = (
        nullcontext()
        if weights.parent == Path(torch.hub.get_dir()) / "checkpoints"
        else served_by_torch(weights.parent)
    )
    with place:
        try:
            made: Any = metric("lpips", net_type=network, normalize=True)
        except RuntimeError as error:
            if isinstance(error, WeightsError):
                raise
            raise WeightsError(f"{weights} does not hold the weights of {network}: {first_line(error)}") from error

    def distance(a: Pixels, b: Pixels) -> float:
        with torch.inference_mode():
            made.reset()
            made.update(_doubles(a).float(), _doubles(b).float())
            return float(made.compute())

    return distance


def _doubles(pixels: Pixels) -> Tensor:
    """Convert pixels to [1, 3, H, W] in float64, from 0 to 1."""
    if pixels.ndim != 3 or pixels.shape[0] != 3:
        raise OptionError(f"an image has shape {list(pixels.shape)}, expected [3, height, width]")
    return torch.from_numpy(pixels)[None].double() / 255
