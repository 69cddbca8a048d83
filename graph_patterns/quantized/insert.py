"""Put constants, and pairs of QuantizeLinear and DequantizeLinear, into a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from tofu_export.graph_patterns.quantized.form import Form

__all__ = ["initializer", "insert", "quantized_and_back"]


def initializer(model: ir.Model, name: str, array: NDArray[np.generic]) -> ir.Value:
    """Add a constant, and return its value."""
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    model.graph.initializers[name] = value
    return value


def insert(
    model: ir.Model,
    before: ir.Node,
    op_type: str,
    stage: str,
    inputs: Sequence[ir.Value | None],
    output: str,
    dtype: ir.DataType,
    **attributes: int,
) -> ir.Value:
    """Add a node in front of another one, and return its output, which has the shape of the first input."""
    source = inputs[0]
    value = ir.Value(
        name=f"{stage}_{output}",
        shape=None if source is None else source.shape,
        type=ir.TensorType(dtype),
    )
    node = ir.Node(
        "",
        op_type,
        inputs,
        [ir.AttrInt64(name, number) for name, number in attributes.items()],
        outputs=[value],
        name=f"{stage}_{op_type}",
    )
    model.graph.insert_before(before, node)
    return value


def quantized_and_back(
    model: ir.Model, before: ir.Node, value: ir.Value, stage: str, scale: NDArray[Any], form: Form
) -> ir.Value:
    """Quantise an activation and dequantise it with one scale, in front of a node.

    Args:
        model: the graph.
        before: the node.
        value: the activation, of the type of the scale.
        stage: beginning of the new names.
        scale: [] what 1 stands for.
        form: the type of the quantised numbers.

    Returns:
        The activation as it is now.
    """
    rest = ir.DataType.from_numpy(scale.dtype)
    name = f"{form.name}_zero"
    zero = model.graph.initializers.get(name) or initializer(model, name, np.zeros((), form.numbers.numpy()))
    sized = initializer(model, f"{stage}_scale", scale)
    narrow = insert(model, before, "QuantizeLinear", stage, (value, sized, zero), "quantized", form.numbers)
    return insert(model, before, "DequantizeLinear", stage, (narrow, sized, zero), "dequantized", rest)
