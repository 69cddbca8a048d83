"""Types of merging formulations, and the parts that they share.

A merge adds sources to the rows of the reduced sequence, prefix and kept sources included. Nothing joins these, and
they pass through bit for bit; so rows need not be split before and joined after, and token sizes are computed in the
same kernel as the weights (docs/decisions/028).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from tofu_export.graph_patterns.canonical import FuseNode
from tofu_export.graph_patterns.fuse.matching import FLOAT, NORM_FLOOR
from tofu_export.graph_patterns.stage import Stage

__all__ = ["FLOAT", "Members", "Merge", "Merged", "Weights", "group_sizes", "joins", "norms", "rescale_to_longest"]


class Weights(NamedTuple):
    """Positive weights of the tokens in a merge: the patches behind each, or its weight in a mean.

    Attributes:
        rows: [B, N', 1] float32, of the output tokens before anything joins them.
        joining: [B, K, 1] float32, of the sources.
    """

    rows: ir.Value
    joining: ir.Value


class Members(NamedTuple):
    """Inputs of a merge with N' output tokens: prefix, kept sources, destinations.

    Attributes:
        rows: [B, N', C], each output token before anything joins it.
        joining: [B, K, C], sources; None if they are pruned, and only their sizes join.
        target: [B, K] int64, index of the joined token among those that can be joined, -1 for none.
        sizes: token sizes; None if nothing reads them.
        weights: weights of the tokens in the mean, which may be `sizes`; None if all are 1.
    """

    rows: ir.Value
    joining: ir.Value | None
    target: ir.Value
    sizes: Weights | None
    weights: Weights | None


class Merged(NamedTuple):
    """Tokens [B, N', C] after the merge, and their sizes [B, N', 1] if read."""

    tokens: ir.Value
    sizes: ir.Value | None


Merge = Callable[[Stage, FuseNode, Members], Merged]


def norms(stage: Stage, fuse: FuseNode, name: str, rows: ir.Value) -> ir.Value:
    """Return L2 norms [B, K, 1] in float32: a half-precision sum of squares overflows at norm 256."""
    wide = stage.cast(f"{name}/wide", rows, fuse.dtype, FLOAT)
    return stage.add("ReduceL2", name, wide, stage.ints(f"{name}/axis", -1), keepdims=1)


def rescale_to_longest(stage: Stage, fuse: FuseNode, mean: ir.Value, longest: ir.Value) -> ir.Value:
    """Rescale for MLERP: `mean / ||mean|| * longest`; a zero mean stays zero.

    Source: arXiv 2312.01026, equations 9 and 10.
    """
    wide = stage.cast("merge/wide", mean, fuse.dtype, FLOAT)
    length = stage.add("ReduceL2", "merge/length", wide, stage.ints("merge/length/axis", -1), keepdims=1)
    floored = stage.add("Max", "merge/length/floored", length, stage.floats("merge/length/floor", NORM_FLOOR))
    scaled = stage.add("Mul", "merge/mlerp", wide, stage.add("Div", "merge/scale", longest, floored))
    return stage.cast("merge/narrow", scaled, FLOAT, fuse.dtype)


def joins(stage: Stage, fuse: FuseNode, target: ir.Value) -> ir.Value:
    """Return whether source k joins row n of the output, bool [B, N', K]."""
    destinations = np.full((1, fuse.tokens - fuse.removed, 1), -2, dtype=np.int64)  # -2 is no target, -1 is one of none
    destinations[0, fuse.roles.first_row :, 0] = np.arange(fuse.roles.joinable)
    columns = stage.add("Unsqueeze", "merge/columns", target, stage.ints("merge/columns/axis", 1))
    return stage.add("Equal", "merge/joins", stage.constant("merge/rows", destinations), columns)


def group_sizes(stage: Stage, onehot: ir.Value) -> ir.Value:
    """Return the members of each group, including the row, float32 [B, N', 1], from the one-hot float32 [B, N', K]."""
    joined = stage.add("ReduceSum", "merge/joined", onehot, stage.ints("merge/joined/axis", -1), keepdims=1)
    return stage.add("Add", "merge/count", joined, stage.floats("merge/one", 1.0))
