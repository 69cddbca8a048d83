"""Lower GELU to a form that runtimes recognise.

From opset 20 on that is the operator; before, the steps in an order that onnxruntime fuses to one kernel.
"""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import RewriteRuleClassBase

from tofu_export.graph_patterns.canonical import DOMAIN
from tofu_export.graph_patterns.stage import Stage

__all__ = ["GeluRule"]

OPERATOR_OPSET = 20
"""First opset with a Gelu operator."""
_CUBIC = 0.044715


class GeluRule(RewriteRuleClassBase):
    """Replace `tofu::Gelu` by the operator or its steps.

    Args:
        opset: opset of the graph.

    Source: arXiv 1606.08415, section 2; the exact form with erf, or its tanh approximation.
    """

    def __init__(self, opset: int) -> None:
        super().__init__(name="Gelu")
        self._opset = opset

    def pattern(self, op: Any, x: Any) -> Any:
        """Return the pattern to match."""
        return op.Gelu(x, _domain=DOMAIN, _outputs=["activated"])

    def rewrite(self, op: Any, x: ir.Value, activated: ir.Value) -> ir.Value:
        """Return the replacement."""
        node = activated.producer()
        assert node is not None and node.name is not None and activated.dtype is not None
        stage, dtype = Stage(op, node.name), activated.dtype
        approximate = node.attributes["approximate"].as_string()
        if self._opset >= OPERATOR_OPSET:
            return stage.add("Gelu", "activated", x, approximate=approximate)
        if approximate == "tanh":
            cube = stage.add("Mul", "cube", stage.add("Mul", "square", x, x), x)
            inner = stage.add("Add", "inner", x, stage.add("Mul", "cubic", cube, stage.floats("c", _CUBIC, dtype)))
            scaled = stage.add("Mul", "scaled", inner, stage.floats("k", math.sqrt(2 / math.pi), dtype))
            bent = stage.add("Tanh", "tanh", scaled)
        else:
            bent = stage.add("Erf", "erf", stage.add("Div", "scaled", x, stage.floats("k", math.sqrt(2), dtype)))
        gate = stage.add("Add", "gate", bent, stage.floats("one", 1.0, dtype))
        half = stage.add("Mul", "half", x, stage.floats("factor", 0.5, dtype))  # first, so that nothing can overflow
        return stage.add("Mul", "activated", half, gate)
