"""Compare two accuracies on the same images: their difference, its confidence interval, and a sign test."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tofu_export.errors import OptionError

__all__ = ["Paired", "compare", "from_counts", "share_interval"]

_Z = 1.959964
"""Two-sided 95 % quantile of the normal distribution."""


@dataclass(frozen=True)
class Paired:
    """Difference of two accuracies on the same images.

    Attributes:
        images: number of images.
        only_first: number of images that only the first file gets right.
        only_second: number of images that only the second file gets right.
        difference: accuracy of the first minus that of the second.
        low: lower end of the 95 % interval of the difference.
        high: its upper end.
        p_value: probability of a split at least as uneven if both were equally good (exact two-sided sign test on the
            images where they differ, McNemar's test).

    Source: Agresti and Min, "Simple improved confidence intervals for comparing matched proportions", Statistics in
        Medicine 24, 2005 (half an image is added to each of the four counts).
    """

    images: int
    only_first: int
    only_second: int
    difference: float
    low: float
    high: float
    p_value: float

    @property
    def separate(self) -> bool:
        """True if the test separates the two at 5 %."""
        return self.p_value < 0.05

    def __str__(self) -> str:
        interval = f"{100 * self.low:+.1f} to {100 * self.high:+.1f}"
        return f"{100 * self.difference:+.1f} points ({interval}, p = {self.p_value:.2g})"


def compare(first: NDArray[Any], second: NDArray[Any], labels: NDArray[Any]) -> Paired:
    """Compare two files by their classes on the same images.

    Args:
        first: [n], classes by the first file.
        second: [n], classes by the second file.
        labels: [n], the true classes.

    Raises:
        OptionError: the three differ in length, or are empty.
    """
    if not len(labels) or not first.shape == second.shape == labels.shape:
        raise OptionError(
            f"decisions {first.shape} and {second.shape} for labels {labels.shape}: expected the same images in each"
        )
    right, other = first == labels, second == labels
    return from_counts(len(labels), int(np.sum(right & ~other)), int(np.sum(other & ~right)))


def from_counts(images: int, only_first: int, only_second: int) -> Paired:
    """Compare two files by counts of images.

    Args:
        images: number of images, at least one.
        only_first: number of images that only the first gets right.
        only_second: number of images that only the second gets right.
    """
    wide = images + 2
    centre = (only_first - only_second) / wide
    spread = math.sqrt((only_first + only_second + 1) / wide - centre**2) * _Z / math.sqrt(wide)
    return Paired(
        images=images,
        only_first=only_first,
        only_second=only_second,
        difference=(only_first - only_second) / images,
        low=max(centre - spread, -1.0),
        high=min(centre + spread, 1.0),
        p_value=_sign_test(only_first, only_second),
    )


def share_interval(hits: int, images: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of images, such as an accuracy.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927.
    """
    share, weight = hits / images, _Z**2 / images
    centre = (share + weight / 2) / (1 + weight)
    spread = _Z / (1 + weight) * math.sqrt(share * (1 - share) / images + weight / (4 * images))
    return max(centre - spread, 0.0), min(centre + spread, 1.0)


_LONG = 1000
"""Number of tosses from which the corrected normal approximation replaces the exact sum, which gets slow."""


def _sign_test(first: int, second: int) -> float:
    """Return the probability, for a fair coin, of a split at least as uneven, on both sides."""
    tosses, fewer = first + second, min(first, second)
    tail = sum(math.comb(tosses, count) for count in range(fewer + 1))
    return float(min(2 * tail / 2**tosses, 1.0)) if tosses < _LONG else _normal_tail(first, second)


def _normal_tail(first: int, second: int) -> float:
    distance = max(abs(first - second) - 1, 0) / math.sqrt(first + second)
    return math.erfc(distance / math.sqrt(2))
