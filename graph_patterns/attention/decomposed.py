"""Attention as matrix products and a softmax: accepted everywhere, and fused to one kernel by TensorRT-RTX in FP16."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from tofu_export.graph_patterns.stage import Stage

__all__ = ["attended", "decomposed", "scored"]


def decomposed(
    stage: Stage, query: ir.Value, key: ir.Value, value: ir.Value, bias: ir.Value | None, scale: float
) -> ir.Value:
    """Write `softmax(q k^T * scale + bias) v`."""
    scores = scored(stage, query, key, scale)
    return attended(stage, scores if bias is None else stage.add("Add", "biased", scores, bias), value)


def scored(stage: Stage, query: ir.Value, key: ir.Value, scale: float) -> ir.Value:
    """Write `q k^T * scale`, [B, H, N, M]. Scaling the queries first keeps half-precision products in range."""
    assert query.dtype is not None  # the tracer always declares it; for foreign graphs it was checked
    factor = stage.floats("scale", scale, query.dtype)
    across = stage.add("Transpose", "keys", key, perm=[0, 1, 3, 2])
    return stage.add("MatMul", "scores", stage.add("Mul", "queries", query, factor), across)


def attended(
    stage: Stage, scores: ir.Value, value: ir.Value, change: Callable[[ir.Value], ir.Value] | None = None
) -> ir.Value:
    """Write `softmax(scores) v`, [B, H, N, D]; `change` is applied to the weights [B, H, N, M] before the product."""
    weights = stage.add("Softmax", "weights", scores, axis=-1)
    return stage.add("MatMul", "attended", weights if change is None else change(weights), value)
