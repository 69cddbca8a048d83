"""Detect indices that count the images, in foreign graphs: `x[batch, index]` with `batch = arange(B)[:, None]`."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from tofu_export.graph_patterns.foreign.proofs import dim_of, proved_same
from tofu_export.graph_patterns.foreign.values import axes_of, constant_of, made_by, through

__all__ = ["counts_images"]

_SPREADING = frozenset({"Cast", "Expand", "Identity", "Unsqueeze"})

Size = int | ir.SymbolicDim


def counts_images(index: ir.Value) -> bool:
    """True if the first of the indices [B, R, 2] is known to be the image number, along the first axis."""
    pair = made_by(index, "Concat")
    if pair is not None and pair.attributes.get_int("axis", 0) not in (-1, 2):
        return False
    first = index if pair is None else pair.inputs[0]
    if first is None or first.shape is None or index.shape is None:
        return False
    value = constant_of(first)
    if value is not None:
        return value.ndim == 3 and bool((value[..., 0] == np.arange(len(value))[:, None]).all())
    if pair is None or len(first.shape) != 3 or first.shape[-1] != 1:
        return False
    counted = _counted(first)
    return counted is not None and counted[0] == 0 and proved_same([counted[1]], index.shape[:1])


def _counted(value: ir.Value) -> tuple[int, Size] | None:
    """Return the axis along which `value` counts 0, 1, 2, .., constant along all others, and its size."""
    start = through(value, _SPREADING)
    chain = []
    node = value.producer()
    while value is not start and node is not None:
        chain.append(node)
        value = node.inputs[0]  # type: ignore[assignment]  # `through` has been there
        node = value.producer()
    size = _count(start)
    if size is None:
        return None
    axis, rank = 0, 1
    for node in reversed(chain):
        shape = node.outputs[0].shape
        if node.op_type == "Unsqueeze":
            if shape is None or (new := axes_of(node, len(shape))) is None:
                return None
            rank = len(shape)
            axis = [place for place in range(rank) if place not in new][axis]
        elif node.op_type == "Expand":
            if shape is None:
                return None
            axis, rank = axis + len(shape) - rank, len(shape)
            if not proved_same([size], [shape[axis]]):  # else one number may have become many
                return None
    return axis, size


def _count(value: ir.Value) -> Size | None:
    """Return the length of a list 0, 1, 2, .., None for any other."""
    content = constant_of(value)
    if content is not None:
        return content.size if content.ndim == 1 and bool((content == np.arange(content.size)).all()) else None
    node = made_by(value, "Range")
    if node is None:
        return None
    first, step = constant_of(node.inputs[0]), constant_of(node.inputs[2])
    if first is None or step is None or (int(first), int(step)) != (0, 1):
        return None
    return dim_of(node.inputs[1])
