"""Insert constants and nodes into a lowered graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

__all__ = ["initializer", "insert"]


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
    """Add a node before another node, and return its output, which has the shape of the first input."""
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
