"""Images that a file is compared on."""

from __future__ import annotations

from pathlib import Path

from tofu_export import demo
from tofu_export.artifact.preprocessing import Preprocessing
from tofu_export.images.inputs import InputSet, demo_set, from_folder, natural_statistics
from tofu_export.zoo.names import DEMO_MODEL

__all__ = ["VERIFICATION_IMAGES", "brings_images", "pixels_for"]

VERIFICATION_IMAGES = 32
"""Number of images to prepare, unless batches need more; they are used in turn."""


def pixels_for(
    count: int,
    model: str | None,
    preprocessing: Preprocessing,
    *,
    images: Path | None = None,
    seed: int = 0,
) -> InputSet:
    """Return real images if there are any, else seeded noise with the statistics of natural images.

    Args:
        count: the most images to read, or how many to make.
        model: resolved name of the model; the demo model has its own images.
        preprocessing: size of the images, and how they are prepared.
        images: folder of images.
        seed: seed of generated images.

    Raises:
        OptionError: the folder has no images that can be read.
    """
    if images is not None:
        return from_folder(images, preprocessing, count)
    if brings_images(model, preprocessing):
        return demo_set(count)
    return natural_statistics(count, preprocessing, seed=seed)


def brings_images(model: str | None, preprocessing: Preprocessing) -> bool:
    """True for the demo model at the size of its own images."""
    return model == DEMO_MODEL and preprocessing.input_size == demo.PREPROCESSING.input_size
