"""Attention as matrix products and a softmax: accepted everywhere, and fused to one kernel by TensorRT-RTX in FP16."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import RewriteRuleClassBase

from tofu_export.graph_patterns.canonical import DOMAIN
from tofu_export.graph_patterns.stage import Stage

__all__ = ["AttentionRule", "BiasedAttentionRule"]


class AttentionRule(RewriteRuleClassBase):
    """`tofu::Attention` by `softmax(q k^T * scale) v`."""

    def pattern(self, op: Any, query: Any, key: Any, value: Any) -> Any:
        """What it looks like."""
        return op.Attention(query, key, value, _domain=DOMAIN, _outputs=["attended"])

    def rewrite(self, op: Any, query: ir.Value, key: ir.Value, value: ir.Value, attended: ir.Value) -> ir.Value:
        """What instead."""
        return _lower(op, query, key, value, None, attended)


class BiasedAttentionRule(RewriteRuleClassBase):
    """`tofu::BiasedAttention` by `softmax(q k^T * scale + bias) v`."""

    def pattern(self, op: Any, query: Any, key: Any, value: Any, bias: Any) -> Any:
        """What it looks like."""
        return op.BiasedAttention(query, key, value, bias, _domain=DOMAIN, _outputs=["attended"])

    def rewrite(
        self, op: Any, query: ir.Value, key: ir.Value, value: ir.Value, bias: ir.Value, attended: ir.Value
    ) -> ir.Value:
        """What instead."""
        return _lower(op, query, key, value, bias, attended)


def _lower(
    op: Any, query: ir.Value, key: ir.Value, value: ir.Value, bias: ir.Value | None, attended: ir.Value
) -> ir.Value:
    node = attended.producer()
    assert node is not None and attended.dtype is not None and node.name is not None
    stage = Stage(op, node.name)
    # Scaling the queries first keeps half-precision products in range.
    scale = stage.floats("scale", node.attributes["scale"].as_float(), attended.dtype)
    across = stage.add("Transpose", "keys", key, perm=[0, 1, 3, 2])
    scores = stage.add("MatMul", "scores", stage.add("Mul", "queries", query, scale), across)
    if bias is not None:
        scores = stage.add("Add", "biased", scores, bias)
    return stage.add("MatMul", "attended", stage.add("Softmax", "weights", scores, axis=-1), value)
