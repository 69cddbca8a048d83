"""The images that a sweep decides on: labelled ones where there are any, read in batches as they are needed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tofu_export import demo
from tofu_export.errors import OptionError
from tofu_export.inputs import demo_set, image_files, natural_statistics, read_images
from tofu_export.zoo.names import DEMO_MODEL

__all__ = ["GENERATED_IMAGES", "Images", "images_for"]

GENERATED_IMAGES = 64
"""Images to make where none are given."""


@dataclass(frozen=True)
class Images:
    """Images in an order that is the same in every run.

    Attributes:
        source: where they come from, for the report.
        real: False for generated ones.
        labels: int64 [n], the class of each; None without classes.
        pixels: float32 [n, C, H, W], normalised, where they are in memory.
        files: the images where they are on disk instead.
        preprocessing: how files are prepared.
    """

    source: str
    real: bool
    labels: NDArray[np.int64] | None
    pixels: NDArray[np.float32] | None = None
    files: tuple[Path, ...] = ()
    preprocessing: Mapping[str, Any] | None = None

    def __len__(self) -> int:
        return len(self.files) if self.pixels is None else len(self.pixels)

    def batches(self, size: int) -> Iterator[NDArray[np.float32]]:
        """All of them, float32 [<= size, C, H, W] at a time."""
        for start in range(0, len(self), size):
            yield self.first(size, start)

    def first(self, count: int, start: int = 0) -> NDArray[np.float32]:
        """At most `count` of them from number `start` on, float32 [B, C, H, W]."""
        if self.pixels is not None:
            return self.pixels[start : start + count]
        assert self.preprocessing is not None  # comes with the files
        return read_images(self.files[start : start + count], self.preprocessing)


def images_for(
    model: str,
    shape: tuple[int, int, int],
    classes: int,
    preprocessing: Mapping[str, Any],
    *,
    folder: Path | None,
    limit: int | None,
    seed: int,
) -> Images:
    """The images to measure a model on.

    A folder whose first level has as many folders as the model has classes is labelled by them, in timm's order: names
    sorted, numbers in them by value. With a limit the images are spread evenly over the sorted files.

    Args:
        model: resolved name; the demo model brings its labelled images.
        shape: channels, height and width.
        classes: number of classes of the model, 0 without a classifier.
        preprocessing: of the model.
        folder: images, None for the demo set or generated ones.
        limit: the most images, None for all.
        seed: of generated images.

    Raises:
        OptionError: the folder has no image, or the limit is below 1.
    """
    if limit is not None and limit < 1:
        raise OptionError(f"limit is {limit}, expected at least 1 image")
    if folder is not None:
        return _from_folder(folder, shape, classes, preprocessing, limit)
    if model == DEMO_MODEL and shape == (1, 28, 28):
        inputs = demo_set(limit)
        labels = demo.load_images()[1][:limit].astype(np.int64)
        return Images(f"{len(inputs)} images of the {inputs.source}", True, labels, inputs.pixels)
    inputs = natural_statistics(
        limit or GENERATED_IMAGES, *shape, seed=seed, mean=preprocessing["mean"], std=preprocessing["std"]
    )
    return Images(f"{len(inputs)} images of {inputs.source}", False, None, inputs.pixels)


def _from_folder(
    folder: Path, shape: tuple[int, int, int], classes: int, preprocessing: Mapping[str, Any], limit: int | None
) -> Images:
    found = image_files(folder)
    labels = _labels(folder, found, classes)
    chosen = np.unique(np.linspace(0, len(found) - 1, min(limit or len(found), len(found))).round().astype(np.int64))
    files = tuple(found[index] for index in chosen)
    return Images(
        f"{len(files)} image{'s' * (len(files) != 1)} from {folder}",
        True,
        None if labels is None else labels[chosen],
        files=files,
        preprocessing={**preprocessing, "input_size": shape},
    )


def _labels(folder: Path, files: Sequence[Path], classes: int) -> NDArray[np.int64] | None:
    """The class of each file by its folder, None where the folders are not the model's classes."""
    parts = [file.relative_to(folder).parts for file in files]
    names = sorted({part[0] for part in parts if len(part) > 1}, key=_natural)
    if not classes or len(names) != classes or any(len(part) == 1 for part in parts):
        return None
    index = {name: number for number, name in enumerate(names)}
    return np.array([index[part[0]] for part in parts], dtype=np.int64)


def _natural(name: str) -> list[int | str]:
    """Sorts numbers within names by value. Source: timm 1.0.31, `utils.misc.natural_key`."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name.lower())]
