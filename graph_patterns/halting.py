"""Halting of tokens in ONNX: `tofu::Halt`, in float32 whatever the precision of the graph.

Source: A-ViT, arXiv 2112.07658, section 3; see `patch.halting`.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import RewriteRuleClassBase

from tofu_export.graph_patterns.canonical import DOMAIN
from tofu_export.graph_patterns.stage import Stage

__all__ = ["HaltRule", "working_name"]

_FLOAT = ir.DataType.FLOAT


def working_name(layer: int) -> str:
    """Return the name of the float32 value [B, N, 1] in a lowered graph that is 1 for tokens that go on after a block.

    It is 0 for those that have halted.
    """
    return f"blocks.{layer}/halt/working"


class HaltRule(RewriteRuleClassBase):
    """Replace `tofu::Halt` by the gate, a comparison, and a product with its result."""

    def pattern(self, op: Any, x: Any, budget: Any) -> Any:
        """Return the pattern to match."""
        return op.Halt(x, budget, _domain=DOMAIN, _outputs=["after"])

    def rewrite(self, op: Any, x: ir.Value, budget: ir.Value, after: ir.Value) -> ir.Value:
        """Return the replacement."""
        node = after.producer()
        assert node is not None and x.dtype is not None  # the tracer always declares it
        scale, center, least = (node.attributes[name].as_float() for name in ("scale", "center", "least"))
        stage = Stage(op, f"blocks.{node.attributes['layer'].as_int()}/halt")
        bounds = (stage.ints(f"channel/{name}", at) for name, at in (("start", 0), ("stop", 1), ("axis", 2)))
        channel = stage.add("Slice", "channel", x, *bounds)
        wide = stage.cast("wide", channel, x.dtype, _FLOAT)
        scaled = stage.add("Mul", "scaled", wide, stage.floats("scale", scale))
        score = stage.add("Sigmoid", "score", stage.add("Sub", "gate", scaled, stage.floats("center", center)))
        left = stage.add("Sub", "left", budget, score)
        goes_on = stage.add("Greater", "goes_on", left, stage.floats("least", least))
        working = stage.add("Cast", "working", goes_on, to=int(_FLOAT))
        return stage.add("Mul", "budget", left, working)
