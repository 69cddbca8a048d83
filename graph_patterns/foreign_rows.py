"""What joins rows of a tensor without a scatter: products and reductions that TensorRT and TensorRT-RTX accept.

    add   x + onehot(index) updates
    else  op(x, op over those that join), with what leaves the result alone in the place of those that do not

The second form makes a tensor [T, R, C] for each image, and serves indices that differ by channel as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from tofu_export.graph_patterns.stage import Stage

__all__ = ["REDUCTIONS", "Joining", "join_rows"]

_REAL = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})

LARGEST = 1 << 25
"""Elements of the largest tensor that is made for one image: 128 MB in FP32."""


@dataclass(frozen=True)
class Joining:
    """Rows `updates` [.., R, C] that join the rows of `data` [.., T, C] where `index` [.., R, 1 or C] says.

    Attributes:
        data: what is joined.
        index: integers from 0 to T - 1.
        updates: what joins, of the same type.
        dtype: the type of both.
        rank: of all three, at least 2.
        rows: T, None if only the runtime knows.
        joining: R, likewise.
        channels: C, likewise.
        by_channel: each channel has an index of its own.
    """

    data: ir.Value
    index: ir.Value
    updates: ir.Value
    dtype: ir.DataType
    rank: int
    rows: int | None
    joining: int | None
    channels: int | None
    by_channel: bool


class _Reduction(NamedTuple):
    """A reduction: the operator of two, that of many, and the opset from which on its axes are an input."""

    of_two: str
    of_many: str
    axes_are_inputs: int


REDUCTIONS = {
    "add": _Reduction("Add", "ReduceSum", 13),
    "mul": _Reduction("Mul", "ReduceProd", 18),
    "max": _Reduction("Max", "ReduceMax", 18),
    "min": _Reduction("Min", "ReduceMin", 18),
}
"""What is known, by the name that ONNX has for it."""


def join_rows(stage: Stage, what: Joining, reduction: str, opset: int) -> ir.Value | str:
    """The rows of the data with those that join them [.., T, C], or why there is nothing.

    Args:
        stage: where to add nodes.
        what: the rows.
        reduction: one of `REDUCTIONS`.
        opset: of the graph.
    """
    rank, kind = what.rank, REDUCTIONS[reduction]
    turned = [*range(rank - 2), rank - 1, rank - 2]
    by_product = reduction == "add" and what.dtype in _REAL and not what.by_channel
    sizes = (what.rows, what.joining, what.channels)
    if not by_product and None not in sizes and np.prod(sizes, dtype=np.float64) > LARGEST:  # type: ignore[arg-type]
        return f"{reduction!r} would need {' x '.join(map(str, sizes))} numbers for each image"
    index = stage.cast("index", what.index, what.index.dtype or ir.DataType.UNDEFINED, ir.DataType.INT64)
    numbers = _numbers(stage, what)
    if by_product:
        joins = stage.add("Equal", "joins", numbers, stage.add("Transpose", "across", index, perm=turned))
        onehot = stage.add("Cast", "onehot", joins, to=int(what.dtype))
        return stage.add("Add", "added", what.data, stage.add("MatMul", "theirs", onehot, what.updates))
    neutral = stage.constant("neutral", _neutral(reduction, what.dtype))
    if what.channels == 1:  # the channels' axis serves for those that join
        joins = stage.add("Equal", "joins", numbers, stage.add("Transpose", "across", index, perm=turned))
        joining = stage.add(
            "Where", "joining", joins, stage.add("Transpose", "updates", what.updates, perm=turned), neutral
        )
        joined = _reduced(stage, kind, joining, opset, axis=rank - 1, keep=True)
    else:
        axis, last = stage.ints("each/axis", rank - 2), stage.ints("last/axis", -1)
        index, updates = (stage.add("Unsqueeze", f"each/{name}", value, axis)
                          for name, value in (("index", index), ("updates", what.updates)))  # fmt: skip
        joins = stage.add("Equal", "joins", stage.add("Unsqueeze", "each/row", numbers, last), index)
        joining = stage.add("Where", "joining", joins, updates, neutral)
        joined = _reduced(stage, kind, joining, opset, axis=rank - 1, keep=False)
    return stage.add(kind.of_two, "joined", what.data, joined)


def _numbers(stage: Stage, what: Joining) -> ir.Value:
    """The numbers of the rows, [T, 1]."""
    if what.rows is not None:
        return stage.constant("rows", np.arange(what.rows, dtype=np.int64).reshape(what.rows, 1))
    shape = stage.add("Shape", "shape", what.data)
    count = stage.add("Gather", "count", shape, stage.constant("count/place", np.array(what.rank - 2)))
    first, step = (stage.constant(name, np.array(number)) for name, number in (("first", 0), ("step", 1)))
    return stage.add("Unsqueeze", "rows", stage.add("Range", "range", first, count, step), stage.ints("rows/axis", 1))


def _reduced(stage: Stage, kind: _Reduction, value: ir.Value, opset: int, *, axis: int, keep: bool) -> ir.Value:
    if opset < kind.axes_are_inputs:
        return stage.add(kind.of_many, "reduced", value, axes=[axis], keepdims=int(keep))
    return stage.add(kind.of_many, "reduced", value, stage.ints("reduced/axis", axis), keepdims=int(keep))


def _neutral(reduction: str, dtype: ir.DataType) -> np.ndarray:
    """What changes nothing where it joins."""
    kind = dtype.numpy()
    if reduction in ("add", "mul"):
        return np.array(int(reduction == "mul"), dtype=kind)
    sign = -1 if reduction == "max" else 1
    if dtype in _REAL:
        return np.array(sign * np.inf, dtype=kind)
    return np.array(np.iinfo(kind).min if sign < 0 else np.iinfo(kind).max, dtype=kind)
