"""Match by rank: count the sources that come before each source. Fewest kernels in TensorRT-RTX.

A sort, a slice and a sort of the rest are three kernels with nothing fused into them. Counting is comparisons and a
sum, which fuse to one; a TopK of the positions of those that stay is the other, in ascending order at once.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from tofu_export.graph_patterns.canonical import FuseNode
from tofu_export.graph_patterns.fuse.match_sort import match_sort
from tofu_export.graph_patterns.fuse.matching import FLOAT, Decisions, Similarity
from tofu_export.graph_patterns.stage import Stage

__all__ = ["RANKED_SOURCES", "match_rank"]

RANKED_SOURCES = 256
"""Largest number of sources that are ranked, more are sorted: counting takes S comparisons for each, and a merge
without a list takes a product with all S sources (2 % of a ViT-B block's multiply-accumulates at S = 512)."""


def match_rank(stage: Stage, fuse: FuseNode, similarity: Similarity) -> Decisions:
    """Rank the sources, or sort if there are too many, or for a token map, which needs lists.

    A source leaves if fewer than R come before it: more similar ones, and equal ones of lower index.

    The nearest destination is the lowest index at which the maximum of a row is met, as ArgMax has it.
    """
    if fuse.sources > RANKED_SOURCES or fuse.lists:
        return match_sort(stage, fuse, similarity)
    kept = leaves = None
    if fuse.sources > fuse.removed:
        rank = _rank(stage, fuse, similarity.cosine)
        leaves = stage.add("Less", "match/leaves", rank, stage.floats("match/removed", fuse.removed))
        index = stage.constant("match/index", np.arange(fuse.sources, dtype=np.float32)[None])
        last = stage.floats("match/last", fuse.sources)
        _, kept = stage.add_many(
            "TopK",
            ("match/kept/sorted", "match/kept"),
            stage.add("Where", "match/staying", leaves, last, index),
            stage.ints("match/kept/k", fuse.sources - fuse.removed),
            axis=-1,
            largest=0,
            sorted=1,
        )
    if not fuse.follows:
        return Decisions(kept, None, None)
    nearest = _nearest(stage, fuse, similarity)
    if leaves is not None:
        nearest = stage.add("Where", "match/joins", leaves, nearest, stage.floats("match/none", -1.0))
    return Decisions(kept, None, stage.add("Cast", "match/assigned", nearest, to=int(ir.DataType.INT64)))


def _rank(stage: Stage, fuse: FuseNode, cosine: ir.Value) -> ir.Value:
    """Return how many sources come before each, float32 [B, S] (exact: counts)."""
    across = stage.add("Transpose", "match/cosine/across", cosine, perm=[0, 2, 1])
    earlier = stage.constant("match/earlier", np.tri(fuse.sources, k=-1, dtype=bool)[None])  # [1, i, j]: j < i
    tied = stage.add("And", "match/tied", stage.add("Equal", "match/equal", across, cosine), earlier)
    before = stage.add("Or", "match/before", stage.add("Greater", "match/more", across, cosine), tied)
    counted = stage.add("Cast", "match/counted", before, to=int(FLOAT))
    return stage.add("ReduceSum", "match/rank", counted, stage.ints("match/rank/axis", -1), keepdims=0)


def _nearest(stage: Stage, fuse: FuseNode, similarity: Similarity) -> ir.Value:
    """Return the best destination of each source, float32 [B, S] (exact: indices)."""
    index = stage.constant("match/destinations", np.arange(fuse.destinations, dtype=np.float32)[None, None])
    beyond = stage.floats("match/beyond", fuse.destinations)
    met = stage.add("Equal", "match/met", similarity.scaled, similarity.best)
    places = stage.add("Where", "match/places", met, index, beyond)
    return stage.add("ReduceMin", "match/lowest", places, stage.ints("match/lowest/axis", -1), keepdims=0)
