"""Numbers of a finished cell: those of its file on all images, and those of its timing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from numpy.typing import NDArray

from tofu_export.report.measurement import Measurement
from tofu_export.report.verification import Verification

__all__ = ["Evaluation", "Record", "Timing"]

T = TypeVar("T")


@dataclass(frozen=True)
class Evaluation:
    """Numbers of a cell's file on all images.

    Attributes:
        top1: share of the images whose class is right; None without labels.
        source: where the images come from.
        real: False for generated images.
        file_gmacs: multiply-accumulates of the file for one image, in 10^9.
        file_bytes: size of the file.
        verification: comparison with the eager model; None if disabled.
        seconds: wall time of making and running the file.
        loaded: description of the loaded weights, in one line.
        images: number of images.
    """

    top1: float | None
    source: str
    real: bool
    file_gmacs: float | None
    file_bytes: int
    verification: Verification | None
    seconds: float
    loaded: str
    images: int


@dataclass(frozen=True, kw_only=True)
class Timing(Measurement):
    """Measurement of a cell at a batch size, with the full model's throughput in the same process."""

    images_per_sec_full: float


@dataclass(frozen=True)
class Record(Generic[T]):
    """Finished cell.

    Attributes:
        result: its numbers.
        outputs: outputs of an evaluation's file: int32 [n], the class of each image, or float32 [n, C], its features;
            None for a timing.
    """

    result: T
    outputs: NDArray[Any] | None = None
