"""Insert a pair of QuantizeLinear and DequantizeLinear for an activation."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from tofu_export.graph_patterns.insert import initializer, insert
from tofu_export.graph_patterns.quantized.form import Form

__all__ = ["quantized_and_back"]


def quantized_and_back(
    model: ir.Model, before: ir.Node, value: ir.Value, stage: str, scale: NDArray[Any], form: Form
) -> ir.Value:
    """Quantise an activation and dequantise it with one scale, before a node.

    Args:
        model: the graph.
        before: the node.
        value: the activation, of the type of the scale.
        stage: prefix of the new names.
        scale: [] value of one step.
        form: the type of the quantised numbers.

    Returns:
        The dequantised activation.
    """
    rest = ir.DataType.from_numpy(scale.dtype)
    name = f"{form.name}_zero"
    zero = model.graph.initializers.get(name) or initializer(model, name, np.zeros((), form.numbers.numpy()))
    sized = initializer(model, f"{stage}_scale", scale)
    narrow = insert(model, before, "QuantizeLinear", stage, (value, sized, zero), "quantized", form.numbers)
    return insert(model, before, "DequantizeLinear", stage, (narrow, sized, zero), "dequantized", rest)
