"""Matching on a grid: the sources that stay by a bounded TopK, and the row that stands for each token.

TensorRT sorts at most 3,840 (`matching.MAX_TOPK`). A grid of 128x128 keeps 4,096 sources at a ratio of one half, so
TopK returns as many as allowed, these are excluded, and it runs again: the result is the same list, ties included.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from tofu_export.graph_patterns.fuse.matching import FLOAT, MAX_TOPK, NORM_FLOOR
from tofu_export.graph_patterns.grid.nodes import GridNode
from tofu_export.graph_patterns.stage import Stage

__all__ = ["match_grid"]

_OUT_OF_REACH = 4.0
"""Score of excluded sources, above any cosine similarity."""


def match_grid(stage: Stage, grid: GridNode, tokens: ir.Value) -> tuple[ir.Value, ir.Value | None]:
    """Return rows [B, N] and places [B, U] of a `tofu::GridMatch`.

    Ties: a source joins the lowest destination, and of equally similar sources the lower one stays (ONNX's ArgMax and
    TopK take the lower index).
    """
    scaled, cosine = _similarity(stage, grid, tokens)
    nearest = stage.add("ArgMax", "match/nearest", scaled, axis=-1, keepdims=0)
    source_rows = nearest
    places = None
    if grid.kept:
        kept, ranks = _least_similar(stage, grid, cosine)
        joined = stage.add("Add", "match/joined", nearest, stage.ints("match/first", grid.kept))
        source_rows = stage.add("ScatterElements", "match/source_rows", joined, kept, ranks, axis=1)
        positions = stage.constant("match/positions", grid.source_positions)
        places = stage.add("Gather", "match/places", positions, kept, axis=0)
    return _spread(stage, grid, source_rows), places


def _similarity(stage: Stage, grid: GridNode, tokens: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Return the similarity [B, S, T] up to a factor per source, and each source's maximum as cosine [B, S], float32.

    Source: arXiv 2312.01026, section 3.1. An island in float32, normalised after the product (see `matching`).
    """
    keys = stage.cast("match/keys", tokens, grid.dtype, FLOAT)
    square = stage.add("ReduceSumSquare", "match/square", keys, stage.ints("match/square/axis", -1), keepdims=1)
    floored = stage.add("Max", "match/floored", square, stage.floats("match/floor", NORM_FLOOR**2))
    inverse = stage.add("Reciprocal", "match/inverse", stage.add("Sqrt", "match/norm", floored))
    of_sources = stage.constant("match/sources", grid.source_positions)
    of_destinations = stage.constant("match/destinations", np.array(grid.positions, dtype=np.int64))

    source_keys = stage.add("Gather", "match/keys/sources", keys, of_sources, axis=1)
    destination_keys = stage.add("Gather", "match/keys/destinations", keys, of_destinations, axis=1)
    across = stage.add("Transpose", "match/keys/across", destination_keys, perm=[0, 2, 1])
    product = stage.add("MatMul", "match/product", source_keys, across)
    destination_inverse = stage.add("Gather", "match/inverse/destinations", inverse, of_destinations, axis=1)
    row = stage.add("Transpose", "match/inverse/across", destination_inverse, perm=[0, 2, 1])
    scaled = stage.add("Mul", "match/scaled", product, row)
    best = stage.add("ReduceMax", "match/best", scaled, stage.ints("match/best/axis", -1), keepdims=1)
    source_inverse = stage.add("Gather", "match/inverse/sources", inverse, of_sources, axis=1)
    cosine = stage.add("Mul", "match/cosine", best, source_inverse)
    return scaled, stage.add("Squeeze", "match/cosines", cosine, stage.ints("match/cosines/axis", -1))


def _least_similar(stage: Stage, grid: GridNode, cosine: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Return the sources that stay, least similar first, int64 [B, U], and their ranks 0, 1 ... [B, U]."""
    batch = stage.add("Shape", "match/batch", cosine, start=0, end=1)

    def for_each_image(name: str, values: np.ndarray) -> ir.Value:
        shape = stage.add("Concat", f"{name}/shape", batch, stage.ints(f"{name}/length", values.size), axis=0)
        return stage.add("Expand", name, stage.constant(f"{name}/values", values[np.newaxis]), shape)

    parts: list[ir.Value] = []
    left = grid.kept
    while left:
        count = min(left, MAX_TOPK)
        name = f"match/kept/{len(parts)}" if grid.kept > MAX_TOPK else "match/kept"
        _, part = stage.add_many(
            "TopK",
            (f"{name}/sorted", name),
            cosine,
            stage.ints(f"{name}/k", count),
            axis=-1,
            largest=0,
            sorted=1,
        )
        parts.append(part)
        left -= count
        if left:
            taken = for_each_image(f"{name}/taken", np.full(count, _OUT_OF_REACH, dtype=np.float32))
            cosine = stage.add("ScatterElements", f"{name}/rest", cosine, part, taken, axis=1)
    kept = parts[0] if len(parts) == 1 else stage.add("Concat", "match/kept", *parts, axis=1)
    return kept, for_each_image("match/ranks", np.arange(grid.kept, dtype=np.int64))


def _spread(stage: Stage, grid: GridNode, source_rows: ir.Value) -> ir.Value:
    """Return rows of all tokens [B, N] from those of the sources [B, S]; a destination's never change."""
    positions = np.array(grid.positions, dtype=np.int64)
    source_of = np.zeros(grid.tokens, dtype=np.int64)
    source_of[grid.source_positions] = np.arange(grid.sources)
    is_destination = np.zeros((1, grid.tokens), dtype=bool)
    is_destination[0, positions] = True
    own = np.zeros((1, grid.tokens), dtype=np.int64)
    own[0, positions] = grid.kept + np.arange(grid.destinations)
    gathered = stage.add("Gather", "match/spread", source_rows, stage.constant("match/source_of", source_of), axis=1)
    return stage.add(
        "Where",
        "match/rows",
        stage.constant("match/is_destination", is_destination),
        stage.constant("match/own", own),
        gathered,
    )
