"""Number types of quantised products, and the arithmetic of their scales."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from tofu_export.options import Precision

__all__ = ["FORMS", "FP8", "INT8", "Floats", "Form"]

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Form:
    """Number type of both factors of a product, symmetric around 0.

    Attributes:
        name: name in the names of constants.
        numbers: the ONNX type.
        largest: the largest number in use.
        mantissa_bits: bits after the leading one of floating-point numbers; None for integers.
        least_exponent: exponent of the smallest normal number.
    """

    name: str
    numbers: ir.DataType
    largest: float
    mantissa_bits: int | None = None
    least_exponent: int = 0

    def scales(self, largest: Floats, rest: np.dtype[Any]) -> NDArray[Any]:
        """Return the scales at which `largest` is representable, in the type `rest`, rounded up to it.

        A scale is at least the smallest normal number, also if everything is 0: its inverse is finite in the same type.
        """
        exact = np.asarray(largest, np.float32) / np.float32(self.largest)
        scales = exact.astype(rest)
        short = scales.astype(np.float32) < exact
        scales = np.where(short, np.nextafter(scales, np.asarray(np.inf, rest)), scales)
        found: NDArray[Any] = np.maximum(scales, np.finfo(rest).tiny).astype(rest)
        return found

    def quantized(self, values: Floats, scales: NDArray[Any]) -> NDArray[Any]:
        """Return the nearest numbers to `values / scales`."""
        shares = np.clip(values / scales.astype(np.float32), -self.largest, self.largest)
        return (np.rint(shares) if self.mantissa_bits is None else shares).astype(self.numbers.numpy())

    def half_steps(self, numbers: Floats) -> Floats:
        """Return half the distance from each of `numbers` to the next larger one, the largest rounding error."""
        if self.mantissa_bits is None:
            return np.full(numbers.shape, 0.5, np.float32)
        led = np.maximum(np.abs(numbers), 2.0**self.least_exponent)
        halves: Floats = np.ldexp(np.float32(0.5), np.frexp(led)[1] - 1 - self.mantissa_bits).astype(np.float32)
        return halves


INT8 = Form("int8", ir.DataType.INT8, 127)
"""INT8 without -128, which would make the range asymmetric."""

FP8 = Form("fp8", ir.DataType.FLOAT8E4M3FN, 448, mantissa_bits=3, least_exponent=-6)
"""E4M3. Source: arXiv 2209.05433, table 1."""

FORMS: Mapping[Precision, Form] = {Precision.INT8: INT8, Precision.INT8_FP16: INT8, Precision.FP8: FP8}
"""Number type of the quantised products of a file, by its precision."""
