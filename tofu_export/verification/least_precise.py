"""Measure how far the rounding of half precision alone turns the outputs of a model.

The tolerance of a precision takes each value to be rounded by a share of itself, 2^-11 in FP16. Below 6e-5 that is not
so: the steps of FP16 stay 6e-8 wide. A model that has not been trained may have such values everywhere (a class token
and layer scales of 1e-6), and norms make logits of them. No file in that precision can then come closer to the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from tofu_export.compare.outputs import Array, OutputComparison, Tolerance, compare_outputs
from tofu_export.verification.in_fp32 import holding, rounded_to
from tofu_export.verification.noise import MOST_EXCESS, changed_tokens

__all__ = ["half_precision_tolerance"]


def half_precision_tolerance(
    model: nn.Module, run: Callable[[], Sequence[Array]], expected: Sequence[Array], tolerance: Tolerance
) -> Tolerance:
    """Return a tolerance whose cosine is what rounding to FP16 explains, where that is less than the usual one.

    Errors may be `MOST_EXCESS` times those of the model itself, with its weights, and the tokens between its blocks,
    rounded to FP16. An angle grows with the error, and 1 minus its cosine with the square.

    Args:
        model: the eager float32 model; its weights are rounded meanwhile.
        run: runs it on a batch, and returns its outputs.
        expected: its outputs, not rounded.
        tolerance: the usual tolerance.
    """

    def changed(tokens: Tensor) -> Tensor:
        return tokens.half().to(tokens.dtype)

    with holding(rounded_to(model, torch.float16)), changed_tokens(model, changed):
        rounded = [compare_outputs(got, right) for got, right in zip(run(), expected, strict=True)]
    turned = max(_turned(found) for found in rounded)
    return replace(tolerance, cosine_min=min(tolerance.cosine_min, 1 - MOST_EXCESS**2 * turned))


def _turned(found: OutputComparison) -> float:
    return max(0.0, 1 - found.cosine_min) if found.finite else 0.0
