"""Rewrite scatters with a reduction, in foreign graphs, for TensorRT and TensorRT-RTX (`foreign_rows`).

Merging tokens chooses whole rows: the same index for all channels, mostly written as `Expand([.., R, 1])`, or pairs of
image and row.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from tofu_export.graph_patterns.foreign.count import counts_images
from tofu_export.graph_patterns.foreign.proofs import never_negative, proved_same
from tofu_export.graph_patterns.foreign.rows import REDUCTIONS, Joining, join_rows
from tofu_export.graph_patterns.foreign.values import fixed, made_by, product
from tofu_export.graph_patterns.stage import Stage

__all__ = ["lower_scatter", "lower_scatter_nd", "reduction_of"]


def reduction_of(node: ir.Node) -> str:
    """Return the reduction of a scatter, `none` if it overwrites."""
    return node.attributes.get_string("reduction", "none") or "none"


def lower_scatter(stage: Stage, node: ir.Node, opset: int) -> ir.Value | str:
    """Return the replacement for a `ScatterElements` with a reduction, or why there is none.

    Args:
        stage: stage to add nodes to.
        node: x [.., T, ..], index and updates [.., R, ..]; along other axes than that of T these may be smaller.
        opset: opset of the graph.
    """
    known = _known(node, "axis")
    if isinstance(known, str):
        return known
    data, index, updates = known
    shape, chosen = data.shape, index.shape
    assert data.dtype and index.dtype and shape is not None and chosen is not None  # `_known`
    rank = len(shape)
    if len(chosen) != rank:
        return "its indices have another rank than its input"
    axis = node.attributes.get_int("axis", 0) % rank
    whole = proved_same([*shape[:axis], *shape[axis + 1 :]], [*chosen[:axis], *chosen[axis + 1 :]])
    rows, joining = fixed(shape[axis]), fixed(chosen[axis])
    if axis == rank - 1:  # without channels, as token counts are summed
        last = stage.ints("channel", -1)
        x, places, joins = (stage.add("Unsqueeze", f"column/{name}", value, last)
                            for name, value in (("x", data), ("index", index), ("updates", updates)))  # fmt: skip
        places.dtype = index.dtype
        what = Joining(x, places, joins, data.dtype, rank + 1, rows, joining, channels=1, by_channel=False, whole=whole)
        joined = join_rows(stage, what, reduction_of(node), opset)
        return joined if isinstance(joined, str) else stage.add("Squeeze", "result", joined, last)
    column = _column(index, axis)
    order = [*(place for place in range(rank - 1) if place != axis), axis, rank - 1]
    parts = data, column or index, updates
    if order != list(range(rank)):
        data, places, updates = (stage.add("Transpose", f"turned/{name}", value, perm=order)
                                 for name, value in zip(("x", "index", "updates"), parts, strict=True))  # fmt: skip
        places.dtype = index.dtype
    else:
        data, places, updates = parts
    what = Joining(
        data, places, updates, node.inputs[0].dtype, rank, rows, joining, fixed(chosen[-1]),  # type: ignore
        by_channel=column is None, whole=whole,
    )  # fmt: skip
    joined = join_rows(stage, what, reduction_of(node), opset)
    if isinstance(joined, str) or order == list(range(rank)):
        return joined
    return stage.add("Transpose", "result", joined, perm=[order.index(place) for place in range(rank)])


def lower_scatter_nd(stage: Stage, node: ir.Node, opset: int) -> ir.Value | str:
    """Return the replacement for a `ScatterND` with a reduction, or why there is none.

    If the first index counts the images, each image joins its own rows. Otherwise all images become one list of
    rows, whose one-hot matrix grows with the square of their number.

    Args:
        stage: stage to add nodes to.
        node: x [D1, .., DK, ..], index [.., K], updates [.., ..].
        opset: opset of the graph.
    """
    known = _known(node)
    if isinstance(known, str):
        return known
    data, index, updates = known
    shape, chosen = data.shape, index.shape
    assert data.dtype and index.dtype and shape is not None and chosen is not None  # `_known`
    depth = fixed(chosen[-1])
    if depth is None:
        return "the number of its indices is not fixed"
    if depth == 2 and len(shape) == 3 and len(chosen) == 3 and counts_images(index):
        bounds = (stage.ints("row/from", 1), stage.ints("row/to", 2), stage.ints("row/axis", -1))
        column = stage.add("Slice", "row", index, *bounds)
        column.dtype = index.dtype
        sizes = fixed(shape[1]), fixed(chosen[1]), fixed(shape[2])
        whole = proved_same(shape[:1], chosen[:1])
        what = Joining(data, column, updates, data.dtype, 3, *sizes, by_channel=False, whole=whole)
        return join_rows(stage, what, reduction_of(node), opset)
    inner = [fixed(size) for size in shape[1:depth]]
    width = product(fixed(size) for size in shape[depth:])
    stride = product(inner)
    if width is None or stride is None:
        return "the sizes of what it reduces onto are not fixed"
    if not width * stride:
        return "what it reduces onto is empty"
    place = stage.cast("places/index", index, index.dtype, ir.DataType.INT64)
    if not never_negative(index):
        extent = stage.add("Slice", "sizes", stage.add("Shape", "sizes/all", data), stage.ints("sizes/from", 0),
                          stage.ints("sizes/to", depth))  # fmt: skip
        below = stage.add("Less", "places/below", place, stage.constant("places/zero", np.array(0)))
        place = stage.add("Where", "places/from-zero", below, stage.add("Add", "places/from-end", place, extent), place)
    if depth > 1:
        strides = [product(inner[axis:]) for axis in range(depth)]
        scaled = stage.add("Mul", "places", place, stage.constant("strides", np.array(strides, dtype=np.int64)))
        place = stage.add("ReduceSum", "place", scaled, stage.ints("place/axis", -1), keepdims=1)
    parts = (("x", data, width), ("index", place, 1), ("updates", updates, width))
    x, places, joins = (stage.add("Reshape", f"flat/{name}", value, stage.ints(f"flat/{name}/shape", -1, size))
                        for name, value, size in parts)  # fmt: skip
    places.dtype = ir.DataType.INT64
    rows, joining = product([fixed(shape[0]), stride]), product(fixed(size) for size in chosen[:-1])
    what = Joining(x, places, joins, data.dtype, 2, rows, joining, width, False, whole=True, from_zero=True)
    joined = join_rows(stage, what, reduction_of(node), opset)
    if isinstance(joined, str):
        return joined
    return stage.add("Reshape", "result", joined, stage.add("Shape", "result/shape", data))


def _known(node: ir.Node, *attributes: str) -> tuple[ir.Value, ir.Value, ir.Value] | str:
    """Return data, indices and updates of a scatter, or why too little is known of them."""
    if other := [name for name in node.attributes if name not in ("reduction", *attributes)]:
        return f"its attribute {other[0]} is unknown"
    data, index, updates = node.inputs[:3]
    if data is None or index is None or updates is None or data.dtype is None:
        return "the type of its input is not in the file"
    if data.shape is None or index.shape is None or index.dtype is None:
        return "the shapes of its inputs are not in the file"
    if reduction_of(node) not in REDUCTIONS:
        return f"reduction {reduction_of(node)!r} is unknown"
    return data, index, updates


def _column(index: ir.Value, axis: int) -> ir.Value | None:
    """Return the indices with one channel, [.., R, .., 1]; None if they may differ by channel.

    The input of an `Expand` along other axes than that of R is used directly: it broadcasts.
    """
    shape = index.shape
    assert shape is not None  # `_known`
    if shape[-1] == 1:
        return index
    expand = made_by(index, "Expand")
    narrow = None if expand is None else expand.inputs[0]
    if narrow is None or narrow.shape is None or len(narrow.shape) != len(shape):
        return None
    return narrow if narrow.shape[-1] == 1 and proved_same([narrow.shape[axis]], [shape[axis]]) else None
