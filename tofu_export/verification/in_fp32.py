"""Compare a file once more without its rounding, so that the remaining differences can be told from a mistake.

What half precision, int8 or fp8 adds to logits hides mistakes: another activation, a missing bias or scale, one mean
instead of another. So a copy of the file computes in FP32 with the file's rounded weights, and the eager model gets
the same rounded weights. What rounding in FP32 explains of the difference is measured (`verify.noise`), in the outputs
and after every block.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tofu_export.artifact.widened import HALVES, widened
from tofu_export.compare.outputs import TOLERANCES, Tolerance
from tofu_export.options import Precision
from tofu_export.verification.dequantized import dequantized
from tofu_export.verification.derived import derived_constants, shaken
from tofu_export.verification.quantized_weights import read_quantized_weights

if TYPE_CHECKING:
    from tofu_export.verification.result import VerificationResult

__all__ = ["BF16_IN_FP32", "IN_FP32", "compare_bf16", "holding", "rounded_to", "with_fp32"]

IN_FP32 = replace(TOLERANCES[Precision.FP32], name="in fp32")
"""Largest difference allowed without rounding, besides what rounding explains."""
BF16_IN_FP32 = Tolerance(
    "bf16 in fp32",
    1e-2,
    0.9999,
    TOLERANCES[Precision.FP16].near_tie,
    "constants rounded to 2^-8, no activations",
)
"""Tolerance of a BF16 file that is computed in FP32."""
_DERIVED = replace(TOLERANCES[Precision.FP16], name="in fp32, constants derived in fp16")
"""Tolerance without rounding for files with constants computed in FP16: what their rounding explains is the bound."""

_NUMBERS = (math.sqrt(2), math.sqrt(0.5), math.sqrt(2 / math.pi), 0.044715, 1.702)
"""Constants in approximations of GELU."""

Compare = Callable[[Path, Tolerance, Path | None], "VerificationResult"]


def with_fp32(
    result: VerificationResult, path: Path, model: nn.Module, precision: Precision, compare: Compare
) -> VerificationResult:
    """Add the comparison of a copy of the file that computes in FP32 (`in_fp32`) to a result.

    Args:
        result: result of the file itself.
        path: the file, in any precision but BF16.
        model: the eager float32 model; its weights are rounded meanwhile.
        precision: precision of the file.
        compare: compares a file with the model, and measures what rounding explains; its last argument is the file
            with its derived constants changed by their rounding, if it has any.
    """
    with tempfile.TemporaryDirectory(prefix="tofu-export-verify-") as name:
        folder, copy, other = Path(name), path, None
        rounded: list[tuple[Tensor, Tensor]] = []
        norms: Sequence[str] = ()
        if precision.calibrated:
            found = read_quantized_weights(path, model, precision)
            result = replace(result, wrong_constant=found.problem)
            if found.unknown is not None or not found.rounded:
                where, form = found.unknown or "any product", precision.value
                note = f"the weight of {where} cannot be told in the model: not compared without the rounding of {form}"
                return replace(result, notes=(*result.notes, note))
            copy, norms = dequantized(path, folder), found.norms
            rounded += found.rounded
        if precision.traced is Precision.FP16:
            numbers = _numbers(model)
            derived = [each for each in derived_constants(copy, model, numbers) if each not in norms]
            wide = folder / "wide"
            wide.mkdir()
            copy = widened(copy, wide, HALVES, numbers)
            rounded = [*rounded_to(model, torch.float16), *rounded]
            if derived:
                other = shaken(copy, folder / "shaken", derived)
        with holding(rounded):
            inner = compare(copy, IN_FP32 if other is None else _DERIVED, other)
    return replace(result, in_fp32=replace(inner, evidence=None))


def _numbers(model: nn.Module) -> Sequence[float]:
    """Return the scalars that a file of a model may hold besides its weights: attention scales, their roots, others."""
    own = {value for module in model.modules() for value in vars(module).values() if isinstance(value, float)}
    scales = sorted(value for value in own if 0 < value < math.inf)
    return (*scales, *map(math.sqrt, scales), *_NUMBERS)


def compare_bf16(path: Path, model: nn.Module, compare: Callable[[Path], VerificationResult]) -> VerificationResult:
    """Compare a copy of a BF16 file that computes in FP32: onnxruntime has no kernels for the file itself.

    Args:
        path: the file.
        model: the eager float32 model; its weights are rounded meanwhile.
        compare: compares a file with the model.
    """
    with tempfile.TemporaryDirectory(prefix="tofu-export-verify-") as name, holding(rounded_to(model, torch.bfloat16)):
        return compare(widened(path, Path(name), HALVES))


def rounded_to(model: nn.Module, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """Return the floating-point tensors of a model, and their values rounded to `dtype`."""
    tensors = [tensor.detach() for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()]
    return [(tensor, tensor.to(dtype)) for tensor in tensors]


@contextmanager
def holding(rounded: Sequence[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Give each first tensor the values of the second inside the context, and restore them after it."""
    kept = [tensor.clone() for tensor, _ in rounded]
    try:
        with torch.no_grad():
            for tensor, values in rounded:
                tensor.copy_(values)
        yield
    finally:
        with torch.no_grad():
            for (tensor, _), before in zip(rounded, kept, strict=True):
                tensor.copy_(before)
