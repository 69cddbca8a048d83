"""Decomposed attention over an even number of keys, for TensorRT-RTX in float32.

Without a fused kernel, a product over or into an odd number of tokens makes TensorRT-RTX 1.7 copy keys, weights and
values into padded buffers, one kernel each, and transpose the keys in another. With one masked key added
here, all of that happens when the joint projection is split: 4 kernels fewer in each block with an odd token count.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from tofu_export.graph_patterns.attention.decomposed import decomposed
from tofu_export.graph_patterns.stage import Stage

__all__ = ["aligned"]

_MASKED = -1e30
"""Score of the masked key: far below any score, and finite, so that its weight is exactly 0."""


def aligned(
    stage: Stage, query: ir.Value, key: ir.Value, value: ir.Value, bias: ir.Value | None, scale: float
) -> ir.Value:
    """Write `softmax(q k^T * scale + bias) v`, with one more key of weight 0 if the number of keys is odd.

    With a bias, which has a column for each key, attention is left unpadded.
    """
    tokens = key.shape[2] if key.shape is not None else None
    if bias is not None or not isinstance(tokens, int) or tokens % 2 == 0:
        return decomposed(stage, query, key, value, bias, scale)
    assert query.dtype is not None  # the tracer always declares it
    pads = stage.ints("pads", 0, 0, 0, 0, 0, 0, 1, 0)
    zero = stage.floats("padding", 0.0, query.dtype)
    mask = np.zeros((1, 1, 1, tokens + 1), dtype=query.dtype.numpy())
    mask[..., -1] = _MASKED
    return decomposed(
        stage,
        query,
        stage.add("Pad", "keys/padded", key, pads, zero),
        stage.add("Pad", "values/padded", value, pads, zero),
        stage.constant("mask", mask),
        scale,
    )
