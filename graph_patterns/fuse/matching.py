"""Types of matching formulations, and the similarity that they share.

The similarity is computed in float32, and normalised after the product so that it is exact in TF32 for half-precision
keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import onnx_ir as ir

from tofu_export.graph_patterns.canonical import FuseNode
from tofu_export.graph_patterns.fuse.rows import take
from tofu_export.graph_patterns.stage import Stage

__all__ = [
    "FLOAT",
    "MAX_TOPK",
    "NORM_FLOOR",
    "Decisions",
    "Match",
    "Similarity",
    "keys_and_inverse_norms",
    "similarity",
]

MAX_TOPK = 3840
"""Largest K of a TopK in TensorRT and TensorRT-RTX (1.7, TensorRT 10)."""

NORM_FLOOR = 1e-12
FLOAT = ir.DataType.FLOAT


class Decisions(NamedTuple):
    """Decisions: which sources stay, and which of them join a destination.

    Attributes:
        kept: [B, S-R] int64, sources that stay, ascending; None if none stays.
        matched: [B, K] int64, the sources that `target` refers to; None: all of them, in order.
        target: [B, K] int64, the destination that each joins, or in a pool the index of a kept source, -1 for a source
            that stays; None if nothing merges.
    """

    kept: ir.Value | None
    matched: ir.Value | None
    target: ir.Value | None


class Similarity(NamedTuple):
    """Similarity of sources and destinations in float32.

    Attributes:
        scaled: [B, S, T], cosine similarity up to a factor per source, which changes no source's best destination.
        best: [B, S, 1], the largest of each row.
        cosine: [B, S, 1], that maximum as cosine similarity, by which sources are compared.
    """

    scaled: ir.Value
    best: ir.Value
    cosine: ir.Value


def keys_and_inverse_norms(stage: Stage, metric: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Return the metric in float32, [B, N, D], and its inverse norms, [B, N, 1]."""
    assert metric.dtype is not None  # the tracer always declares it
    keys = stage.cast("match/keys", metric, metric.dtype, FLOAT)
    square = stage.add("ReduceSumSquare", "match/square", keys, stage.ints("match/square/axis", -1), keepdims=1)
    floored = stage.add("Max", "match/floored", square, stage.floats("match/floor", NORM_FLOOR**2))
    return keys, stage.add("Reciprocal", "match/inverse", stage.add("Sqrt", "match/norm", floored))


Match = Callable[[Stage, FuseNode, Similarity], Decisions]
"""Formulation of matching. Targets are computed if sources merge, in the tokens or in the token map."""


def similarity(stage: Stage, fuse: FuseNode, metric: ir.Value) -> Similarity:
    """Compute the similarity of every source with every destination, from the metric [B, N, D] of any floating type.

    Source: arXiv 2312.01026, section 3.1.
    """
    keys, inverse = keys_and_inverse_norms(stage, metric)

    def part(name: str, value: ir.Value) -> tuple[ir.Value, ir.Value]:
        return (
            take(stage, f"{name}/sources", value, fuse.roles.sources),
            take(stage, f"{name}/destinations", value, fuse.roles.destinations),
        )

    source_keys, destination_keys = part("match/keys", keys)
    source_inverse, destination_inverse = part("match/inverse", inverse)
    across = stage.add("Transpose", "match/keys/across", destination_keys, perm=[0, 2, 1])
    product = stage.add("MatMul", "match/product", source_keys, across)
    destination_row = stage.add("Transpose", "match/inverse/across", destination_inverse, perm=[0, 2, 1])
    # The source's own norm scales a whole row: it cannot change which destination is best, so it comes after.
    scaled = stage.add("Mul", "match/scaled", product, destination_row)
    best = stage.add("ReduceMax", "match/best", scaled, stage.ints("match/best/axis", -1), keepdims=1)
    return Similarity(scaled, best, stage.add("Mul", "match/cosine", best, source_inverse))
