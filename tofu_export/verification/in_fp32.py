"""Compare a file in half precision once more, computed in FP32: what is left is no rounding of activations.

A copy of the file computes in FP32 with its rounded weights (`widened`), against the eager model whose weights are
rounded alike. Another activation, a bias or a scale left out, an average in the place of another one: all of these are
far smaller than what half precision adds to logits, and far larger than what FP32 does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from tofu_export.artifact.widened import HALVES, widened
from tofu_export.compare.outputs import TOLERANCES, Tolerance
from tofu_export.options import Precision

if TYPE_CHECKING:
    from tofu_export.verification.result import VerificationResult

__all__ = ["IN_FP32", "compare_in_fp32"]

HALF_TYPES = {Precision.FP16: torch.float16, Precision.BF16: torch.bfloat16}

IN_FP32 = {
    Precision.FP16: Tolerance(
        "fp16 in fp32",
        1e-3,
        0.99999,
        TOLERANCES[Precision.FP16].near_tie,
        "constants rounded to 2^-11, no activations; measured in docs/verification.md",
    ),
    Precision.BF16: Tolerance(
        "bf16 in fp32",
        1e-2,
        0.9999,
        TOLERANCES[Precision.FP16].near_tie,
        "constants rounded to 2^-8, no activations",
    ),
}
"""What the outputs and the blocks of a file may differ by where only its constants are rounded."""


def compare_in_fp32(
    path: Path, model: nn.Module, precision: Precision, compare: Callable[[Path], VerificationResult]
) -> VerificationResult:
    """The comparison of a copy of the file at `path` that computes in FP32.

    Args:
        path: a file in half precision.
        model: the eager float32 model; its weights are rounded meanwhile.
        precision: of the file, FP16 or BF16.
        compare: compares a file with it, and allows what `IN_FP32` or its like says.
    """
    with tempfile.TemporaryDirectory(prefix="tofu-export-verify-") as folder, _rounded(model, HALF_TYPES[precision]):
        result = compare(widened(path, Path(folder), HALVES))
    return replace(result, evidence=None)


@contextmanager
def _rounded(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Weights rounded to `dtype`, and back again in the end."""
    tensors = [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()]
    kept = [tensor.detach().clone() for tensor in tensors]
    try:
        with torch.no_grad():
            for tensor in tensors:
                tensor.copy_(tensor.to(dtype).to(tensor.dtype))
        yield
    finally:
        with torch.no_grad():
            for tensor, before in zip(tensors, kept, strict=True):
                tensor.copy_(before)
