"""Top-1 and top-5 accuracy, against one class per image or ImageNet's reassessed labels. Numpy only.

Axes: B images, K classes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tofu_export.errors import OptionError
from tofu_export.evaluate.paired import share_interval
from tofu_export.report.evaluation import ScoreEntry, UsedLabels

__all__ = ["BUNDLED", "RealLabels", "Score", "top_classes"]

BUNDLED = "timm"
"""Stands for the reassessed labels included in timm."""

TOP = 5
_VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.\w+")


def top_classes(logits: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Return the five best classes of each image, best first, [B, min(5, K)]; of equals the lower index."""
    order = np.argsort(-logits.astype(np.float64), axis=1, kind="stable")
    return order[:, :TOP].astype(np.int64)


@dataclass
class Score:
    """Counter of hits, image by image.

    Attributes:
        counted: number of images that count.
        top1: number of images whose best class is right.
        top5: number of images with a right class among the best five.
        classes: number of classes; with fewer than five there is no top-5.
    """

    classes: int
    counted: int = 0
    top1: int = 0
    top5: int = 0

    def add(self, best: NDArray[np.int64], right: Sequence[Sequence[int]]) -> list[bool]:
        """Add images: their best classes [B, <= 5], and the right classes of each; an image without any does not count.

        Returns:
            For each image that counts, whether its best class is right.
        """
        found = []
        for row, allowed in zip(best, right, strict=True):
            if len(allowed):
                hits = np.isin(row, allowed)
                self.counted += 1
                self.top1 += bool(hits[0])
                self.top5 += bool(hits.any())
                found.append(bool(hits[0]))
        return found

    def entry(self) -> ScoreEntry:
        """Return the score in percent, with names and digits as in timm's `validate.py`; None if nothing counts."""
        top1 = round(100 * self.top1 / self.counted, 4) if self.counted else None
        top5 = round(100 * self.top5 / self.counted, 4) if self.counted and self.classes >= TOP else None
        return ScoreEntry(
            top1=top1,
            top1_err=None if top1 is None else round(100 - top1, 4),
            top5=top5,
            top5_err=None if top5 is None else round(100 - top5, 4),
            counted=self.counted,
            top1_interval=None if top1 is None else self._interval(self.top1),
            top5_interval=None if top5 is None else self._interval(self.top5),
        )

    def _interval(self, hits: int) -> tuple[float, float]:
        low, high = share_interval(hits, self.counted)
        return round(100 * low, 4), round(100 * high, 4)


class RealLabels:
    """Classes that ImageNet's validation images really show, by file name.

    Source: arXiv 2006.07159; the format is that of timm 1.0.31, `data.real_labels`: a JSON list with a list of classes
        for each image, in order of their numbers. An image without a class does not count.

    Args:
        by_image: classes of image 1, 2, ...
        source: where the labels come from.
    """

    def __init__(self, by_image: Sequence[Sequence[int]], source: str) -> None:
        self._by_image = by_image
        self.source = source

    @classmethod
    def read(cls, where: str) -> RealLabels:
        """Read labels from a JSON file, or those included in timm for `timm`.

        Raises:
            OptionError: the file cannot be read or has other content.
        """
        try:
            if where == BUNDLED:
                text = files("timm.data").joinpath("_info/imagenet_real_labels.json").read_text(encoding="utf-8")
            else:
                text = Path(where).read_text(encoding="utf-8")
            found = json.loads(text)
        except (OSError, ValueError, RecursionError, ModuleNotFoundError) as error:
            raise OptionError(
                f"cannot read real labels from {where}: {error}; expected JSON, a list of classes for each image of "
                f"ImageNet's validation set, or `{BUNDLED}`"
            ) from error
        rows = found if isinstance(found, list) else []
        if not rows or not all(isinstance(row, list) and all(type(item) is int for item in row) for row in rows):
            raise OptionError(f"{where} holds no real labels: expected a list of lists of class numbers")
        return cls(rows, where)

    def of(self, names: Sequence[str], num_classes: int) -> list[Sequence[int]]:
        """Return the classes of images, by their file names.

        Raises:
            OptionError: a name is not that of a validation image, or a class is not one of the model's.
        """
        found = []
        for name in names:
            match = _VALIDATION_NAME.fullmatch(name.rpartition("/")[2])
            number = int(match[1]) if match else 0
            if not 1 <= number <= len(self._by_image):
                raise OptionError(
                    f"real labels are for ILSVRC2012_val_00000001.JPEG to {len(self._by_image):08d}, and {name} is "
                    "none of them: leave out --real-labels"
                )
            row = self._by_image[number - 1]
            if any(not 0 <= item < num_classes for item in row):
                raise OptionError(f"the real labels of {name} are {row}, but the model has {num_classes} classes")
            found.append(row)
        return found

    def used(self, score: Score, images: int) -> UsedLabels:
        """Return the entry `real_labels` of the result."""
        return UsedLabels(self.source, score.counted, images - score.counted)
