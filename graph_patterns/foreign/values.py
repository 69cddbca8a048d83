"""Facts that a foreign graph states of a value: constants, origins, sizes."""

from __future__ import annotations

from collections.abc import Container, Iterable

import numpy as np
import onnx_ir as ir

__all__ = ["REAL", "axes_of", "constant_of", "fixed", "made_by", "product", "through"]

REAL = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})
"""Types of real numbers that graphs are computed in."""


def made_by(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """Return the node that computes `value` if it has one of these types of the default domain, else None."""
    node = None if value is None else value.producer()
    return node if node is not None and node.domain in ("", "ai.onnx") and node.op_type in op_types else None


def through(value: ir.Value, op_types: Container[str]) -> ir.Value:
    """Follow `value` back through first inputs of nodes of these types, and return the origin."""
    node = value.producer()
    while (
        node is not None and node.domain in ("", "ai.onnx") and node.op_type in op_types and node.inputs[0] is not None
    ):
        value = node.inputs[0]
        node = value.producer()
    return value


def constant_of(value: ir.Value | None) -> np.ndarray | None:
    """Return the content of a constant, else None."""
    if value is None:
        return None
    node = made_by(value, "Constant")
    tensor = node.attributes["value"].as_tensor() if node is not None and "value" in node.attributes else None
    if tensor is None and not value.is_graph_input():
        tensor = value.const_value
    return None if tensor is None else tensor.numpy()


def axes_of(node: ir.Node, rank: int) -> list[int] | None:
    """Return the axes that an `Unsqueeze` to this rank adds, ascending; None if they are not in the file.

    Up to opset 12 they are an attribute.
    """
    axes: Iterable[int] | None = node.attributes.get_ints("axes", None)
    if axes is None:
        content = constant_of(node.inputs[1]) if len(node.inputs) > 1 else None
        axes = None if content is None else content.reshape(-1).tolist()
    return None if axes is None else sorted(int(place) % rank for place in axes)


def fixed(size: int | ir.SymbolicDim) -> int | None:
    """Return a size, None if known only at run time."""
    return size if isinstance(size, int) else None


def product(sizes: Iterable[int | None]) -> int | None:
    """Return the product of all sizes, None if one is not fixed."""
    result = 1
    for size in sizes:
        if size is None:
            return None
        result *= size
    return result
