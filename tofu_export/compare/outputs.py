"""Compare outputs, with named tolerances. Numpy only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tofu_export.errors import VerificationError
from tofu_export.options import Precision

__all__ = [
    "TOLERANCES",
    "OutputComparison",
    "Tally",
    "Tolerance",
    "compare_outputs",
    "is_real",
    "only_nan",
    "settled",
]

Array = NDArray[Any]

_TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True)
class Tolerance:
    """Allowed difference between a file of one precision and the eager float32 model.

    Attributes:
        name: the precision.
        max_error: largest absolute difference of a logit, as a share of max(1, largest logit).
        cosine_min: smallest cosine of two logit vectors.
        near_tie: two candidates whose cosine similarity to a source differs by less are a tie.
        reason: where the numbers come from.
        absolute: absolute difference allowed in addition, whatever the largest logit is.
        relative: largest norm of the difference of an image, as a share of the norm of the reference's; None for any.
        strays: share of the decisions that may be flips between candidates further apart than a tie.
    """

    name: str
    max_error: float
    cosine_min: float
    near_tie: float
    reason: str
    absolute: float = 0.0
    relative: float | None = None
    strays: float = 0.0

    def allowed(self, scale: float) -> float:
        """Return the largest absolute difference allowed if `scale` is max(1, largest logit)."""
        return self.absolute + self.max_error * scale

    @property
    def longer(self) -> float:
        """Largest share by which all outputs together may be longer or shorter than the reference's.

        An error that turns an output as far as `cosine_min` allows is sqrt(2 (1 - cosine)) of its length, and changes
        that by as much at most. Outputs below 1 could otherwise be twice as large unnoticed.
        """
        return math.sqrt(2 * (1 - self.cosine_min))


_STEPS = "127 steps for the largest value of a tensor; measured in docs/verification.md"

TOLERANCES = {
    Precision.FP32: Tolerance(
        "fp32", 1e-4, 0.99999, 2e-5, "rounding of 2^-24 in sums over up to 4,096 channels, taken in another order"
    ),
    Precision.FP16: Tolerance(
        "fp16", 3e-2, 0.999, 4e-3, "rounding of 2^-11 in every activation; measured in docs/verification.md"
    ),
    Precision.BF16: Tolerance(
        "bf16", 0.25, 0.98, 3e-2, "rounding of 2^-8 in every activation; measured in docs/verification.md"
    ),
    Precision.INT8: Tolerance("int8", 0.5, 0.8, 0.1, _STEPS, strays=0.02),
    Precision.INT8_FP16: Tolerance("int8-fp16", 0.5, 0.8, 0.1, _STEPS, strays=0.02),
    Precision.FP8: Tolerance(
        "fp8",
        0.5,
        0.9,
        0.15,
        "rounding by up to 2^-4 in both factors of a product; measured in docs/verification.md",
        strays=0.02,
    ),
}
"""Named tolerances by precision."""


@dataclass(frozen=True)
class OutputComparison:
    """Difference between two batches of logits.

    Attributes:
        max_abs: largest absolute difference.
        scale: max(1, largest absolute reference logit).
        cosine_min: smallest cosine over the images.
        top1_agreement: share of images with the same best class; None for fewer than two classes.
        finite: neither has a NaN or an infinity.
        images: number of images compared.
        relative: largest norm of the difference of an image, as a share of the norm of the reference's.
        longer: share by which the norm of a batch is longer or shorter than that of the reference's, at most.
    """

    max_abs: float
    scale: float
    cosine_min: float
    top1_agreement: float | None
    finite: bool
    images: int
    relative: float = 0.0
    longer: float = 0.0

    def within(self, tolerance: Tolerance) -> bool:
        """True if nothing exceeds the tolerance and something was compared."""
        return (
            self.finite
            and self.images > 0
            and self.max_abs <= tolerance.allowed(self.scale)
            and self.cosine_min >= tolerance.cosine_min
            and self.longer <= tolerance.longer
            and (tolerance.relative is None or self.relative <= tolerance.relative)
        )

    def only_turned(self, tolerance: Tolerance) -> bool:
        """True if nothing but the cosine exceeds the tolerance."""
        return not self.within(tolerance) and self.within(replace(tolerance, cosine_min=-1.0))

    def joined(self, other: OutputComparison) -> OutputComparison:
        """Return the comparison of both sets of images taken together."""
        images = self.images + other.images
        top1 = None
        if self.top1_agreement is not None and other.top1_agreement is not None:
            top1 = (self.top1_agreement * self.images + other.top1_agreement * other.images) / max(images, 1)
        return OutputComparison(
            max(self.max_abs, other.max_abs),
            max(self.scale, other.scale),
            min(self.cosine_min, other.cosine_min),
            top1,
            self.finite and other.finite,
            images,
            max(self.relative, other.relative),
            max(self.longer, other.longer),
        )


def compare_outputs(got: Array, expected: Array) -> OutputComparison:
    """Compare two arrays of real numbers, such as logits [B, K], in float64; a scalar is one row of one number.

    Raises:
        ValueError: the shapes differ.
    """
    if got.shape != expected.shape:
        raise ValueError(f"outputs have shapes {got.shape} and {expected.shape}, expected the same")
    left, right = (_rows(values) for values in (got, expected))
    finite = bool(np.isfinite(left).all() and np.isfinite(right).all())
    if not finite or left.size == 0:
        return OutputComparison(float("nan"), 1.0, float("nan"), None, finite, len(left) if finite else 0)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    both_equal = np.abs(left - right).max(axis=1) == 0
    cosines = np.where(norms > 0, (left * right).sum(axis=1) / np.where(norms > 0, norms, 1.0), both_equal)
    return OutputComparison(
        max_abs=float(np.abs(left - right).max()),
        scale=max(1.0, float(np.abs(right).max())),
        cosine_min=float(cosines.min()),
        top1_agreement=float((left.argmax(1) == right.argmax(1)).mean()) if left.shape[1] > 1 else None,
        finite=True,
        images=len(left),
        relative=float((np.linalg.norm(left - right, axis=1) / np.maximum(np.linalg.norm(right, axis=1), _TINY)).max()),
        longer=_longer(left, right),
    )


class Tally:
    """Accumulated comparison of a file's outputs with a reference's, by name, over batches.

    Args:
        file: name of the file in messages.

    Attributes:
        outputs: comparison of the real-valued outputs, by name.
        integers: integers compared.
        wrong_integers: integers that differ.
    """

    def __init__(self, file: str) -> None:
        self._file = file
        self.outputs: dict[str, OutputComparison] = {}
        self.integers = self.wrong_integers = 0

    def add(self, got: Mapping[str, Array], expected: Mapping[str, Array]) -> list[OutputComparison]:
        """Compare one batch, output by output; return the comparisons of its real-valued outputs.

        Args:
            got: outputs of the file.
            expected: outputs of the reference, by the same names.

        Raises:
            VerificationError: an output has another shape or kind of numbers than it should.
        """
        batch = []
        for name, right in expected.items():
            value, real = got[name], is_real(right)
            if value.shape != right.shape or not (is_real(value) if real else value.dtype == right.dtype):
                kind = "real numbers" if real else right.dtype.name
                raise VerificationError(
                    f"{self._file}: {name} is {value.dtype.name}{list(value.shape)}, expected {kind} "
                    f"{list(right.shape)}: is it the same model, with as many classes, and the same output?"
                )
            if not real:
                self.integers += right.size
                self.wrong_integers += int((value != right).sum())
                continue
            found = compare_outputs(value, right)
            self.outputs[name] = self.outputs[name].joined(found) if name in self.outputs else found
            batch.append(found)
        return batch


def settled(
    got: Mapping[str, Array], expected: Mapping[str, Array], *, nan: bool = True
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return both sets of outputs, with 0 where both have the same infinity or NaN, and without empty ones.

    Real numbers may be of two types, as in files of two precisions.

    Args:
        got: outputs of a file.
        expected: outputs of its reference, by the same names.
        nan: NaN equals NaN.

    Raises:
        KeyError: an output is missing.
    """
    left, right = dict(got), dict(expected)
    for name, wanted in expected.items():
        value = got[name]
        real = is_real(value) and is_real(wanted)
        if value.shape != wanted.shape or not (real or value.dtype == wanted.dtype):
            continue
        if not value.size:
            del left[name], right[name]
        elif real:
            same = np.isinf(wanted) & (value == wanted)
            if nan:
                same |= np.isnan(value) & np.isnan(wanted)
            left[name], right[name] = (np.where(same, np.zeros((), entry.dtype), entry) for entry in (value, wanted))
    return left, right


def only_nan(batches: Iterable[Mapping[str, Array]]) -> list[str]:
    """Return the names of the outputs that are NaN in all entries of all batches: no comparison of them tells anything.

    Empty outputs are not among them.
    """
    told: dict[str, bool] = {}
    for name, value in (item for outputs in batches for item in outputs.items()):
        empty = not value.size
        told[name] = told.get(name, False) or empty or not is_real(value) or not bool(np.isnan(value).all())
    return [name for name, tells in told.items() if not tells]


def is_real(value: Array) -> bool:
    """True if an array has floating-point values."""
    return np.issubdtype(value.dtype, np.floating)


def _longer(got: Array, expected: Array) -> float:
    """Return how much longer or shorter all values together are than expected, as a share."""
    length = float(np.linalg.norm(expected))
    difference = abs(float(np.linalg.norm(got)) - length)
    return difference / length if length else float(np.inf if difference else 0)


def _rows(values: Array) -> NDArray[np.float64]:
    rows = np.atleast_1d(values).astype(np.float64)
    return rows.reshape(len(rows), math.prod(rows.shape[1:]))
