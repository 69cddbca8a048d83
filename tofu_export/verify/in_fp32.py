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

from tofu_export.compare import TOLERANCES, Tolerance
from tofu_export.options import Precision
from tofu_export.widened import HALVES, widened

if TYPE_CHECKING:
    from tofu_export.verify.result import VerificationResult

__all__ = ["IN_FP32", "compare_in_fp32"]

IN_FP32 = Tolerance(
    "fp16 in fp32",
    1e-3,
    0.99999,
    TOLERANCES[Precision.FP16].near_tie,
    "constants rounded to 2^-11, no activations; measured in docs/verification.md",
)
"""What the outputs and the blocks of a file may differ by where only its constants are rounded."""


def compare_in_fp32(
    path: Path, model: nn.Module, compare: Callable[[Path, Tolerance], VerificationResult]
) -> VerificationResult:
    """The comparison of a copy of the file at `path` that computes in FP32.

    Args:
        path: a file in FP16.
        model: the eager float32 model; its weights are rounded meanwhile.
        compare: compares a file with it.
    """
    with tempfile.TemporaryDirectory(prefix="tofu-export-verify-") as folder, _rounded(model):
        result = compare(widened(path, Path(folder), HALVES), IN_FP32)
    return replace(result, evidence=None)


@contextmanager
def _rounded(model: nn.Module) -> Iterator[None]:
    """Weights as they are in FP16, and back again in the end."""
    tensors = [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()]
    kept = [tensor.detach().clone() for tensor in tensors]
    try:
        with torch.no_grad():
            for tensor in tensors:
                tensor.copy_(tensor.half().to(tensor.dtype))
        yield
    finally:
        with torch.no_grad():
            for tensor, before in zip(tensors, kept, strict=True):
                tensor.copy_(before)
