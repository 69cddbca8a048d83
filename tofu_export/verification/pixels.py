"""Images that a file is compared on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tofu_export.images.inputs import InputSet, demo_set, from_folder, natural_statistics
from tofu_export.zoo.names import DEMO_MODEL

__all__ = ["VERIFICATION_IMAGES", "pixels_for"]

VERIFICATION_IMAGES = 32
"""Number of images to prepare, unless batches need more; they are used in turn."""


def pixels_for(
    count: int,
    model: str | None,
    shape: tuple[int, int, int],
    preprocessing: Mapping[str, Any],
    *,
    images: Path | None = None,
    seed: int = 0,
) -> InputSet:
    """Return real images if there are any, else seeded noise with the statistics of natural images.

    Args:
        count: the most images to read, or how many to make.
        model: resolved name of the model; the demo model has its own images.
        shape: channels, height and width.
        preprocessing: mean and std; with a folder, all that `from_folder` needs.
        images: folder of images.
        seed: seed of generated images.

    Raises:
        OptionError: the folder has no images that can be read.
    """
    channels, height, width = shape
    if images is not None:
        return from_folder(images, {**preprocessing, "input_size": shape}, count)
    if model == DEMO_MODEL and shape == (1, 28, 28):
        return demo_set(count)
    mean, std = preprocessing["mean"], preprocessing["std"]
    return natural_statistics(count, channels, height, width, seed=seed, mean=mean, std=std)
