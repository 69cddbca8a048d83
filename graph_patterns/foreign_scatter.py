"""Scatters with a reduction, in graphs of others, by what TensorRT and TensorRT-RTX accept (`foreign_rows`).

Merging tokens chooses whole rows: the same index for all channels, mostly written as `Expand([.., R, 1])`, or pairs of
image and row. Indices count from 0, as those of a sort or an arg-max do.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from tofu_export.graph_patterns.foreign_rows import REDUCTIONS, Joining, join_rows
from tofu_export.graph_patterns.foreign_values import constant_of, counted_axis, fixed, made_by, product, same_sizes
from tofu_export.graph_patterns.stage import Stage

__all__ = ["lower_scatter", "lower_scatter_nd", "reduction_of"]


def reduction_of(node: ir.Node) -> str:
    """The reduction of a scatter, `none` where it overwrites."""
    return node.attributes.get_string("reduction", "none") or "none"


def lower_scatter(stage: Stage, node: ir.Node, opset: int) -> ir.Value | str:
    """What stands for the output of a `ScatterElements` with a reduction, or why there is nothing.

    Args:
        stage: where to add nodes.
        node: x [.., T, C], index and updates [.., R, C] along the axis of T; or all three without C.
        opset: of the graph.
    """
    known = _known(node)
    if isinstance(known, str):
        return known
    data, index, updates = known
    shape, chosen, given = data.shape, index.shape, updates.shape
    assert data.dtype and index.dtype and shape is not None and chosen is not None and given is not None  # `_known`
    rank = len(shape)
    axis = node.attributes.get_int("axis", 0) % rank
    if not all(
        same_sizes([*shape[:axis], *shape[axis + 1 :]], [*part[:axis], *part[axis + 1 :]]) for part in (chosen, given)
    ):
        return "it reduces onto a part of its input alone"
    rows, joining = fixed(shape[axis]), fixed(chosen[axis])
    if axis == rank - 1:  # without channels, as numbers of tokens are added up
        last = stage.ints("channel", -1)
        x, places, joins = (stage.add("Unsqueeze", f"column/{name}", value, last)
                            for name, value in (("x", data), ("index", index), ("updates", updates)))  # fmt: skip
        places.dtype = index.dtype
        what = Joining(x, places, joins, data.dtype, rank + 1, rows, joining, channels=1, by_channel=False)
        joined = join_rows(stage, what, reduction_of(node), opset)
        return joined if isinstance(joined, str) else stage.add("Squeeze", "result", joined, last)
    if axis != rank - 2:
        return f"it reduces along axis {axis} of {rank}, only the last two are known"
    column = _column(index)
    what = Joining(
        data, column or index, updates, data.dtype, rank, rows, joining, fixed(shape[-1]), by_channel=column is None
    )
    return join_rows(stage, what, reduction_of(node), opset)


def lower_scatter_nd(stage: Stage, node: ir.Node, opset: int) -> ir.Value | str:
    """What stands for the output of a `ScatterND` with a reduction, or why there is nothing.

    Where the first index counts the images, each image joins its own rows. Otherwise all images become one list of
    rows, whose one-hot matrix grows with the square of their number.

    Args:
        stage: where to add nodes.
        node: x [D1, .., DK, ..], index [.., K], updates [.., ..].
        opset: of the graph.
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
    if depth == 2 and len(shape) == 3 and len(chosen) == 3 and _counts_images(index):
        bounds = (stage.ints("row/from", 1), stage.ints("row/to", 2), stage.ints("row/axis", -1))
        column = stage.add("Slice", "row", index, *bounds)
        column.dtype = index.dtype
        sizes = fixed(shape[1]), fixed(chosen[1]), fixed(shape[2])
        what = Joining(data, column, updates, data.dtype, 3, *sizes, by_channel=False)
        return join_rows(stage, what, reduction_of(node), opset)
    inner = [fixed(size) for size in shape[1:depth]]
    width = product(fixed(size) for size in shape[depth:])
    stride = product(inner)
    if width is None or stride is None:
        return "the sizes of what it reduces onto are not fixed"
    place = index
    if depth > 1:
        strides = [product(inner[axis:]) for axis in range(depth)]
        scaled = stage.add("Mul", "places", index, stage.constant("strides", np.array(strides, dtype=np.int64)))
        place = stage.add("ReduceSum", "place", scaled, stage.ints("place/axis", -1), keepdims=1)
    parts = (("x", data, width), ("index", place, 1), ("updates", updates, width))
    x, places, joins = (stage.add("Reshape", f"flat/{name}", value, stage.ints(f"flat/{name}/shape", -1, size))
                        for name, value, size in parts)  # fmt: skip
    places.dtype = index.dtype
    rows, joining = product([fixed(shape[0]), stride]), product(fixed(size) for size in chosen[:-1])
    what = Joining(x, places, joins, data.dtype, 2, rows, joining, width, by_channel=False)
    joined = join_rows(stage, what, reduction_of(node), opset)
    if isinstance(joined, str):
        return joined
    return stage.add("Reshape", "result", joined, stage.add("Shape", "result/shape", data))


def _known(node: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value] | str:
    """Data, indices and updates of a scatter, if enough is known of them; else why not."""
    data, index, updates = node.inputs[:3]
    if data is None or index is None or updates is None or data.dtype is None:
        return "the type of its input is not in the file"
    if data.shape is None or index.shape is None or updates.shape is None or index.dtype is None:
        return "the shapes of its inputs are not in the file"
    if reduction_of(node) not in REDUCTIONS:
        return f"reduction {reduction_of(node)!r} is unknown"
    return data, index, updates


def _column(index: ir.Value) -> ir.Value | None:
    """The indices with one channel, [.., R, 1]; None if they may differ by channel."""
    shape = index.shape
    assert shape is not None  # `_known`
    if shape[-1] == 1:
        return index
    expand = made_by(index, "Expand")
    narrow = None if expand is None else expand.inputs[0]
    if narrow is None or narrow.shape is None or len(narrow.shape) != len(shape):
        return None
    return narrow if narrow.shape[-1] == 1 and same_sizes(narrow.shape[:-1], shape[:-1]) else None


def _counts_images(index: ir.Value) -> bool:
    """True if the first of the indices [B, R, 2] is the number of the image, 0 to B - 1 along the first axis."""
    pair = made_by(index, "Concat")
    first = index if pair is None else pair.inputs[0]
    value = constant_of(first)
    if value is not None and value.ndim == 3:
        return bool((value[..., 0] == np.arange(len(value))[:, None]).all())
    return first is not None and first is not index and counted_axis(first) == 0
