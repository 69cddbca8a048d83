"""The types of numbers that products are quantised to, and the arithmetic of their scales."""

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
    """A type of numbers that both factors of a product are stored in, symmetric around 0.

    Attributes:
        name: as in the names of constants.
        numbers: the ONNX type.
        largest: the largest number in use.
        mantissa_bits: those behind the leading one of floating-point numbers; None for whole ones.
        least_exponent: of the smallest number that has a leading one.
    """

    name: str
    numbers: ir.DataType
    largest: float
    mantissa_bits: int | None = None
    least_exponent: int = 0

    def scales(self, largest: Floats, rest: np.dtype[Any]) -> NDArray[Any]:
        """What 1 stands for, so that `largest` is within reach: of the type `rest`, rounded up to it.

        Not below the smallest normal number, also where everything is 0: its inverse is finite in the same type.
        """
        exact = np.asarray(largest, np.float32) / np.float32(self.largest)
        scales = exact.astype(rest)
        short = scales.astype(np.float32) < exact
        scales = np.where(short, np.nextafter(scales, np.asarray(np.inf, rest)), scales)
        found: NDArray[Any] = np.maximum(scales, np.finfo(rest).tiny).astype(rest)
        return found

    def quantized(self, values: Floats, scales: NDArray[Any]) -> NDArray[Any]:
        """The nearest numbers to `values / scales`."""
        shares = np.clip(values / scales.astype(np.float32), -self.largest, self.largest)
        return (np.rint(shares) if self.mantissa_bits is None else shares).astype(self.numbers.numpy())

    def half_steps(self, numbers: Floats) -> Floats:
        """Half the way from each of `numbers` to the next larger one: no further has rounding moved it."""
        if self.mantissa_bits is None:
            return np.full(numbers.shape, 0.5, np.float32)
        led = np.maximum(np.abs(numbers), 2.0**self.least_exponent)
        halves: Floats = np.ldexp(np.float32(0.5), np.frexp(led)[1] - 1 - self.mantissa_bits).astype(np.float32)
        return halves


INT8 = Form("int8", ir.DataType.INT8, 127)
"""-128 would make the range lopsided."""

FP8 = Form("fp8", ir.DataType.FLOAT8E4M3FN, 448, mantissa_bits=3, least_exponent=-6)
"""E4M3. Source: arXiv 2209.05433, table 1."""

FORMS: Mapping[Precision, Form] = {Precision.INT8: INT8, Precision.INT8_FP16: INT8, Precision.FP8: FP8}
"""What the products of a file are quantised to, by its precision."""
