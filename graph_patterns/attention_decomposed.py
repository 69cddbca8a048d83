"""Attention as matrix products and a softmax: accepted everywhere, and fused to one kernel by TensorRT-RTX in FP16."""

from __future__ import annotations

import onnx_ir as ir

from tofu_export.graph_patterns.stage import Stage

__all__ = ["decomposed"]


def decomposed(
    stage: Stage, query: ir.Value, key: ir.Value, value: ir.Value, bias: ir.Value | None, scale: float
) -> ir.Value:
    """`softmax(q k^T * scale + bias) v`. Scaling the queries first keeps half-precision products in range."""
    assert query.dtype is not None  # the tracer always declares it
    factor = stage.floats("scale", scale, query.dtype)
    across = stage.add("Transpose", "keys", key, perm=[0, 1, 3, 2])
    scores = stage.add("MatMul", "scores", stage.add("Mul", "queries", query, factor), across)
    if bias is not None:
        scores = stage.add("Add", "biased", scores, bias)
    return stage.add("MatMul", "attended", stage.add("Softmax", "weights", scores, axis=-1), value)
