"""Join rows of a tensor without a scatter: products and reductions that TensorRT and TensorRT-RTX accept.

    add   x + onehot(index) updates
    else  op(x, op over rows that join), with the neutral element for rows that do not

The second form makes a tensor [T, R, C] for each image, and also supports indices that differ by channel. In the
first form an infinity would make NaN of every row that it does not join (0 times infinity), so infinities of updates
that may have them are summed separately.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from tofu_export.graph_patterns.foreign.proofs import may_be_infinite, never_negative
from tofu_export.graph_patterns.foreign.values import REAL
from tofu_export.graph_patterns.stage import Stage

__all__ = ["REDUCTIONS", "Joining", "join_rows"]

_WHOLE = frozenset({ir.DataType.INT32, ir.DataType.INT64})

LARGEST = 1 << 25
"""Elements of the largest tensor that is made for one image, or for one list of rows: 128 MB in FP32."""


@dataclass(frozen=True)
class Joining:
    """Rows `updates` [.., R, C] that join the rows of `data` [.., T, C] at `index` [.., R, 1 or C].

    Attributes:
        data: rows that are joined.
        index: integers from -T to T - 1; those below 0 count from the end.
        updates: rows that join, of the same type. Along other axes than that of T they may be smaller than the data,
            and then join only the first entries.
        dtype: the type of both.
        rank: rank of all three, at least 2.
        rows: T, None if known only at run time.
        joining: R, None if known only at run time.
        channels: C of the updates, None if known only at run time.
        by_channel: each channel has an index of its own.
        whole: the updates are known to be as large as the data along all other axes.
        from_zero: no index is below 0.
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
    whole: bool
    from_zero: bool = False


class _Reduction(NamedTuple):
    """Reduction: its binary operator, its reducing operator, and the opset from which the axes of that are an input."""

    of_two: str
    of_many: str
    axes_are_inputs: int


REDUCTIONS = {
    "add": _Reduction("Add", "ReduceSum", 13),
    "mul": _Reduction("Mul", "ReduceProd", 18),
    "max": _Reduction("Max", "ReduceMax", 18),
    "min": _Reduction("Min", "ReduceMin", 18),
}
"""Supported reductions, by ONNX name."""


def join_rows(stage: Stage, what: Joining, reduction: str, opset: int) -> ir.Value | str:
    """Return the rows of the data joined with the updates [.., T, C], or why that is impossible.

    Args:
        stage: stage to add nodes to.
        what: the rows to join.
        reduction: one of `REDUCTIONS`.
        opset: opset of the graph.
    """
    if what.dtype not in REAL and what.dtype not in _WHOLE:
        return f"it reduces {what.dtype.name}"
    rank, kind = what.rank, REDUCTIONS[reduction]
    turned = [*range(rank - 2), rank - 1, rank - 2]
    by_product = reduction == "add" and what.dtype in REAL and not what.by_channel
    sizes = (what.rows, what.joining) if by_product else (what.rows, what.joining, what.channels)
    if None not in sizes and np.prod(sizes, dtype=np.float64) > LARGEST:  # type: ignore[arg-type]
        return f"{reduction!r} would need {' x '.join(map(str, sizes))} numbers at once"
    count = None if what.rows is not None else _count(stage, what)
    index, numbers = _index(stage, what, count), _numbers(stage, what, count)
    if by_product:
        joins = stage.add("Equal", "joins", numbers, stage.add("Transpose", "across", index, perm=turned))
        onehot = stage.add("Cast", "onehot", joins, to=int(what.dtype))
        theirs = _infinities_apart(stage, what, onehot) if may_be_infinite(what.updates) else (
            stage.add("MatMul", "theirs", onehot, what.updates))  # fmt: skip
        return stage.add("Add", "added", what.data, _padded(stage, what, theirs, reduction))
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
    return stage.add(kind.of_two, "joined", what.data, _padded(stage, what, joined, reduction))


def _index(stage: Stage, what: Joining, count: ir.Value | None) -> ir.Value:
    """Return the indices as INT64, counted from 0."""
    index = stage.cast("index", what.index, what.index.dtype or ir.DataType.UNDEFINED, ir.DataType.INT64)
    if what.from_zero or never_negative(what.index):
        return index
    rows = stage.constant("rows/count", np.array(what.rows)) if count is None else count
    below = stage.add("Less", "index/below", index, stage.constant("index/zero", np.array(0)))
    return stage.add("Where", "index/from-zero", below, stage.add("Add", "index/from-end", index, rows), index)


def _infinities_apart(stage: Stage, what: Joining, onehot: ir.Value) -> ir.Value:
    """Return `onehot(index) updates` with infinities replaced by 0, plus their contribution to the sums."""
    kind = what.dtype.numpy()
    zero = stage.constant("zero", np.array(0, dtype=kind))
    parts = []
    for name, compare, bound in (("above", "Less", np.inf), ("below", "Greater", -np.inf)):
        limit = stage.constant(f"{name}/bound", np.array(bound, dtype=kind))
        within = stage.add(compare, f"{name}/within", what.updates, limit)  # false for NaN as well
        beyond = stage.add("Cast", f"{name}/beyond", stage.add("Not", f"{name}/not", within), to=int(what.dtype))
        joins = stage.add("Greater", f"{name}/joins", stage.add("MatMul", f"{name}/count", onehot, beyond), zero)
        parts.append((within, stage.add("Where", name, joins, limit, zero)))
    (below, above), (above_too, under) = parts
    finite = stage.add("Where", "finite", stage.add("And", "finite/is", below, above_too), what.updates, zero)
    theirs = stage.add("MatMul", "theirs/finite", onehot, finite)
    return stage.add("Add", "theirs", stage.add("Add", "theirs/above", theirs, above), under)


def _padded(stage: Stage, what: Joining, joined: ir.Value, reduction: str) -> ir.Value:
    """Pad the result to the size of the data: no update joins the rest."""
    if what.whole:
        return joined
    missing = stage.add("Sub", "missing", stage.add("Shape", "whole", what.data), stage.add("Shape", "part", joined))
    pads = stage.add("Concat", "pads", stage.ints("pads/before", *[0] * what.rank), missing, axis=0)
    return stage.add("Pad", "padded", joined, pads, stage.constant("padding", _neutral(reduction, what.dtype)))


def _numbers(stage: Stage, what: Joining, count: ir.Value | None) -> ir.Value:
    """Return the row numbers, [T, 1]."""
    if count is None:
        assert what.rows is not None  # else they were counted
        return stage.constant("rows", np.arange(what.rows, dtype=np.int64).reshape(-1, 1))
    first, step = (stage.constant(name, np.array(number)) for name, number in (("first", 0), ("step", 1)))
    return stage.add("Unsqueeze", "rows", stage.add("Range", "range", first, count, step), stage.ints("rows/axis", 1))


def _count(stage: Stage, what: Joining) -> ir.Value:
    """Return T if it is known only at run time."""
    shape = stage.add("Shape", "shape", what.data)
    return stage.add("Gather", "count", shape, stage.constant("count/place", np.array(what.rank - 2)))


def _reduced(stage: Stage, kind: _Reduction, value: ir.Value, opset: int, *, axis: int, keep: bool) -> ir.Value:
    if opset < kind.axes_are_inputs:
        return stage.add(kind.of_many, "reduced", value, axes=[axis], keepdims=int(keep))
    return stage.add(kind.of_many, "reduced", value, stage.ints("reduced/axis", axis), keepdims=int(keep))


def _neutral(reduction: str, dtype: ir.DataType) -> np.ndarray:
    """Return the neutral element of a reduction."""
    kind = dtype.numpy()
    if reduction in ("add", "mul"):
        return np.array(int(reduction == "mul"), dtype=kind)
    sign = -1 if reduction == "max" else 1
    if dtype in REAL:
        return np.array(sign * np.inf, dtype=kind)
    return np.array(np.iinfo(kind).min if sign < 0 else np.iinfo(kind).max, dtype=kind)
