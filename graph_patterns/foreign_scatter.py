"""Scatter with a reduction, in graphs of others, by a one-hot matrix: what TensorRT and TensorRT-RTX accept.

    scatter_add(x, index, updates)  ->  x + onehot(index) updates
    scatter_max(x, index, updates)  ->  max(x, max over those that join)

This is for indices that choose whole rows, as merging tokens does: the same index for all channels, mostly written as
`Expand([.., R, 1])`. Indices that differ by channel would need a matrix for each of them.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from tofu_export.graph_patterns.stage import Stage

__all__ = ["lower_scatter", "reduction_of"]

_REDUCE_AXES_ARE_INPUTS = 18


def reduction_of(node: ir.Node) -> str:
    """The reduction of a scatter, `none` where it overwrites."""
    return node.attributes.get_string("reduction", "none") or "none"


def lower_scatter(stage: Stage, node: ir.Node, opset: int) -> ir.Value | str:
    """What stands for the output of a `ScatterElements` with a reduction, or why there is nothing.

    Args:
        stage: where to add nodes.
        node: x [.., T, C], index [.., R, C], updates [.., R, C], along the axis of T.
        opset: of the graph.
    """
    data, index, updates = node.inputs[:3]
    if data is None or index is None or updates is None or data.shape is None or updates.dtype is None:
        return "the shape or type of its input is not in the file"
    reduction, rank = reduction_of(node), len(data.shape)
    axis = node.attributes.get_int("axis", 0) % rank
    if reduction not in ("add", "max"):
        return f"reduction {reduction!r} has no equal formulation here, only 'add' and 'max' have"
    if rank < 2 or axis != rank - 2:
        return f"it reduces along axis {axis} of {rank}, only the last but one is known"
    rows = data.shape[axis]
    if not isinstance(rows, int):
        return "the number of rows that it reduces onto is not fixed"
    column = _column(index)
    if column is None:
        return "its indices differ by channel, or it cannot be seen that they do not"
    if column.dtype != ir.DataType.INT64:
        column = stage.add("Cast", "index", column, to=int(ir.DataType.INT64))
    turned = [*range(rank - 2), rank - 1, rank - 2]
    across = stage.add("Transpose", "across", column, perm=turned)
    numbers = stage.constant("rows", np.arange(rows, dtype=np.int64).reshape(*[1] * (rank - 2), rows, 1))
    joins = stage.add("Equal", "joins", numbers, across)
    if reduction == "add":
        onehot = stage.add("Cast", "onehot", joins, to=int(updates.dtype))
        return stage.add("Add", "added", data, stage.add("MatMul", "theirs", onehot, updates))
    if data.shape[-1] != 1:
        return f"a maximum over {data.shape[-1]} channels would need a matrix for each of them"
    lowest = stage.constant("lowest", np.array(-np.inf, dtype=updates.dtype.numpy()))
    joining = stage.add("Where", "joining", joins, stage.add("Transpose", "updates", updates, perm=turned), lowest)
    if opset < _REDUCE_AXES_ARE_INPUTS:
        longest = stage.add("ReduceMax", "longest", joining, axes=[rank - 1], keepdims=1)
    else:
        longest = stage.add("ReduceMax", "longest", joining, stage.ints("longest/axis", -1), keepdims=1)
    return stage.add("Max", "maximum", data, longest)


def _column(index: ir.Value) -> ir.Value | None:
    """The indices with one channel, [.., R, 1]; None if they may differ by channel."""
    shape = index.shape
    if shape is not None and shape[-1] == 1:
        return index
    producer = index.producer()
    if producer is None or producer.op_type != "Expand" or producer.domain:
        return None
    narrow = producer.inputs[0]
    if narrow is None or narrow.shape is None or shape is None or len(narrow.shape) != len(shape):
        return None
    return narrow if narrow.shape[-1] == 1 else None
