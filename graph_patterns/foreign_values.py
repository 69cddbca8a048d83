"""What the graph of somebody else says of a value: constants, origins, sizes."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

import numpy as np
import onnx_ir as ir

__all__ = ["axes_of", "constant_of", "counted_axis", "fixed", "made_by", "product", "same_sizes", "through"]


def made_by(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node of one of these types of the default domain that computes `value`, else None."""
    node = None if value is None else value.producer()
    return node if node is not None and node.domain in ("", "ai.onnx") and node.op_type in op_types else None


def through(value: ir.Value, op_types: Container[str]) -> ir.Value:
    """The value from which nodes of these types alone, by their first input, make `value`."""
    node = value.producer()
    while (
        node is not None and node.domain in ("", "ai.onnx") and node.op_type in op_types and node.inputs[0] is not None
    ):
        value = node.inputs[0]
        node = value.producer()
    return value


def constant_of(value: ir.Value | None) -> np.ndarray | None:
    """Its content if it is a constant, else None."""
    if value is None:
        return None
    node = made_by(value, "Constant")
    tensor = node.attributes["value"].as_tensor() if node is not None and "value" in node.attributes else None
    if tensor is None and not value.is_graph_input():
        tensor = value.const_value
    return None if tensor is None else tensor.numpy()


def axes_of(node: ir.Node, rank: int) -> list[int] | None:
    """The axes that an `Unsqueeze` to this rank adds, ascending; None if they are not in the file."""
    axes = constant_of(node.inputs[1]) if len(node.inputs) > 1 else None
    return None if axes is None else sorted(int(place) % rank for place in axes.reshape(-1))


def counted_axis(value: ir.Value) -> int | None:
    """The axis along which `value` counts 0, 1, 2, .. and is the same along all others; None if that cannot be seen."""
    start = through(value, _SPREADING)
    chain = []
    node = value.producer()
    while value is not start and node is not None:
        chain.append(node)
        value = node.inputs[0]  # type: ignore[assignment]  # `through` has been there
        node = value.producer()
    if not _counts(start):
        return None
    axis, rank = 0, 1
    for node in reversed(chain):
        if node.op_type == "Unsqueeze":
            axes = constant_of(node.inputs[1]) if len(node.inputs) > 1 else None
            if axes is None:
                return None
            rank += axes.size
            new = axes_of(node, rank) or []
            axis = [place for place in range(rank) if place not in new][axis]
        elif node.op_type == "Expand":
            shape = node.outputs[0].shape
            if shape is None:
                return None
            axis, rank = axis + len(shape) - rank, len(shape)
    return axis


_SPREADING = frozenset({"Cast", "Expand", "Identity", "Unsqueeze"})


def _counts(value: ir.Value) -> bool:
    """True for the numbers 0, 1, 2, .. as a list."""
    content = constant_of(value)
    if content is not None:
        return content.ndim == 1 and bool((content == np.arange(content.size)).all())
    node = made_by(value, "Range")
    if node is None:
        return False
    first, step = constant_of(node.inputs[0]), constant_of(node.inputs[2])
    return first is not None and step is not None and (int(first), int(step)) == (0, 1)


def fixed(size: int | ir.SymbolicDim) -> int | None:
    """A size, None where only the runtime knows."""
    return size if isinstance(size, int) else None


def product(sizes: Iterable[int | None]) -> int | None:
    """All sizes multiplied, None if one is not fixed."""
    result = 1
    for size in sizes:
        if size is None:
            return None
        result *= size
    return result


def same_sizes(one: Sequence[int | ir.SymbolicDim], other: Sequence[int | ir.SymbolicDim]) -> bool:
    """False if two rows of sizes are known to differ."""
    return len(one) == len(other) and all(
        left == right or not isinstance(left, int) or not isinstance(right, int)
        for left, right in zip(one, other, strict=True)
    )
