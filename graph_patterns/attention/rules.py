"""Rules that replace `tofu::Attention` and `tofu::BiasedAttention` by standard operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import RewriteRuleClassBase

from tofu_export.graph_patterns.canonical import DOMAIN
from tofu_export.graph_patterns.stage import Stage

__all__ = ["Attend", "AttentionRule", "BiasedAttentionRule"]

Attend = Callable[[Stage, ir.Value, ir.Value, ir.Value, "ir.Value | None", float], ir.Value]
"""Formulation of attention: queries, keys and values [B, H, N, D], a bias or None, and the scale give [B, H, N, D]."""


class AttentionRule(RewriteRuleClassBase):
    """Replace `tofu::Attention` by `softmax(q k^T * scale) v`.

    Args:
        attend: formulation of the attention.
    """

    def __init__(self, attend: Attend) -> None:
        super().__init__(name=f"{type(self).__name__}[{attend.__name__}]")
        self._attend = attend

    def pattern(self, op: Any, query: Any, key: Any, value: Any) -> Any:
        """Return the pattern to match."""
        return op.Attention(query, key, value, _domain=DOMAIN, _outputs=["attended"])

    def rewrite(self, op: Any, query: ir.Value, key: ir.Value, value: ir.Value, attended: ir.Value) -> ir.Value:
        """Return the replacement."""
        return self._lower(op, query, key, value, None, attended)

    def _lower(
        self, op: Any, query: ir.Value, key: ir.Value, value: ir.Value, bias: ir.Value | None, attended: ir.Value
    ) -> ir.Value:
        node = attended.producer()
        assert node is not None and node.name is not None  # the pattern has a producer, which naming has named
        return self._attend(Stage(op, node.name), query, key, value, bias, node.attributes["scale"].as_float())


class BiasedAttentionRule(AttentionRule):
    """Replace `tofu::BiasedAttention` by `softmax(q k^T * scale + bias) v`."""

    def pattern(self, op: Any, query: Any, key: Any, value: Any, bias: Any) -> Any:  # type: ignore[override]
        """Return the pattern to match."""
        return op.BiasedAttention(query, key, value, bias, _domain=DOMAIN, _outputs=["attended"])

    def rewrite(  # type: ignore[override]
        self, op: Any, query: ir.Value, key: ir.Value, value: ir.Value, bias: ir.Value, attended: ir.Value
    ) -> ir.Value:
        """Return the replacement."""
        return self._lower(op, query, key, value, bias, attended)
