"""Merge on a grid by a one-hot matrix product over all tokens, and unmerge by one gather.

A destination is in its own group, so one product with all tokens gives the sum of each group, without splitting tokens
before or adding any after it.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from tofu_export.graph_patterns.fuse.matching import FLOAT, NORM_FLOOR
from tofu_export.graph_patterns.grid.nodes import GridNode
from tofu_export.graph_patterns.stage import Stage

__all__ = ["merge_grid", "unmerge_grid"]


def merge_grid(stage: Stage, grid: GridNode, tokens: ir.Value, rows: ir.Value, places: ir.Value | None) -> ir.Value:
    """Return the reduced sequence [B, N - R, C]: sources that stay, then destinations, in the type of `tokens`.

    Source: arXiv 2312.01026, equations 6, 9 and 10.
    """
    if grid.merges:
        destinations = _merged(stage, grid, tokens, rows)
    else:
        positions = stage.constant("merge/positions", np.array(grid.positions, dtype=np.int64))
        destinations = stage.add("Gather", "merge/destinations", tokens, positions, axis=1)
    if places is None:
        return destinations
    column = stage.add("Unsqueeze", "merge/places", places, stage.ints("merge/places/axis", -1))
    kept = stage.add("GatherND", "merge/kept", tokens, column, batch_dims=1)
    return stage.add("Concat", "merge/tokens", kept, destinations, axis=1)


def _merged(stage: Stage, grid: GridNode, tokens: ir.Value, rows: ir.Value) -> ir.Value:
    """Return the mean, or MLERP, of each group [B, T, C]."""
    own = grid.kept + np.arange(grid.destinations, dtype=np.int64).reshape(1, -1, 1)
    across = stage.add("Unsqueeze", "merge/rows", rows, stage.ints("merge/rows/axis", 1))
    members = stage.add("Equal", "merge/members", across, stage.constant("merge/own", own))
    onehot = stage.add("Cast", "merge/onehot", members, to=int(FLOAT))
    count = stage.add("ReduceSum", "merge/count", onehot, stage.ints("merge/count/axis", -1), keepdims=1)
    if grid.dtype == FLOAT:
        mean = stage.add("Div", "merge/mean", stage.add("MatMul", "merge/sum", onehot, tokens), count)
    else:  # weights first, so that no half-precision sum can overflow
        weights = stage.add(
            "Cast", "merge/weights", stage.add("Div", "merge/shares", onehot, count), to=int(grid.dtype)
        )
        mean = stage.add("MatMul", "merge/mean", weights, tokens)
    if grid.method != "mlerp":
        return mean

    def norms(name: str, values: ir.Value) -> ir.Value:
        """Return L2 norms in float32: a half-precision sum of squares overflows at norm 256."""
        wide = stage.cast(f"{name}/wide", values, grid.dtype, FLOAT)
        return stage.add("ReduceL2", name, wide, stage.ints(f"{name}/axis", -1), keepdims=1)

    lengths = stage.add("Transpose", "merge/lengths/across", norms("merge/lengths", tokens), perm=[0, 2, 1])
    theirs = stage.add("Mul", "merge/lengths/members", onehot, lengths)
    longest = stage.add("ReduceMax", "merge/longest", theirs, stage.ints("merge/longest/axis", -1), keepdims=1)
    floor = stage.floats("merge/length/floor", NORM_FLOOR)
    length = stage.add("Max", "merge/length/floored", norms("merge/length", mean), floor)
    scale = stage.add("Div", "merge/scale", longest, length)
    wide = stage.cast("merge/mean/wide", mean, grid.dtype, FLOAT)
    return stage.cast("merge/narrow", stage.add("Mul", "merge/mlerp", wide, scale), FLOAT, grid.dtype)


def unmerge_grid(stage: Stage, reduced: ir.Value, rows: ir.Value) -> ir.Value:
    """Return every token [B, N, C] as a copy of the row that stands for it."""
    column = stage.add("Unsqueeze", "unmerge/rows", rows, stage.ints("unmerge/rows/axis", -1))
    return stage.add("GatherND", "unmerge/tokens", reduced, column, batch_dims=1)
