"""Bipartite matching as ONNX: an island in float32, one bounded TopK, a second one to sort what stays.

Kept sources are put in ascending order: in order of score, noise of 1e-7 would change which tokens later layers call
even and odd (measured: errors of 1.1 in the output). The similarity is normalised after the product so that it is
exact in TF32 for half-precision keys.
"""

from __future__ import annotations

from typing import NamedTuple

import onnx_ir as ir

from tofu_export.graph_patterns.canonical import FuseNode
from tofu_export.graph_patterns.stage import Stage

__all__ = ["FLOAT", "MAX_TOPK", "NORM_FLOOR", "Decisions", "match"]

MAX_TOPK = 3840
"""Largest K of a TopK in TensorRT and TensorRT-RTX (1.7, TensorRT 10)."""

NORM_FLOOR = 1e-12
FLOAT = ir.DataType.FLOAT


class Decisions(NamedTuple):
    """Indices among sources and destinations, int64; `kept` is None if none stays, the others if nobody asks."""

    kept: ir.Value | None
    matched: ir.Value | None
    target: ir.Value | None


def match(
    stage: Stage, fuse: FuseNode, metric: ir.Value, metric_type: ir.DataType, *, mapped: bool = False
) -> Decisions:
    """Decide which sources leave, and where to; the latter if they merge, or if `mapped`: the token map follows them.

    Ties go to the lower index (ONNX TopK and ArgMax).

    Source: arXiv 2312.01026, section 3.1.
    """
    keys = stage.cast("match/keys", metric, metric_type, FLOAT)
    square = stage.add("ReduceSumSquare", "match/square", keys, stage.ints("match/square/axis", -1), keepdims=1)
    floored = stage.add("Max", "match/floored", square, stage.floats("match/floor", NORM_FLOOR**2))
    inverse = stage.add("Reciprocal", "match/inverse", stage.add("Sqrt", "match/norm", floored))

    def part(name: str, value: ir.Value) -> tuple[ir.Value, ir.Value]:
        return (
            stage.slice(f"{name}/sources", value, fuse.first_source, step=2),
            stage.slice(f"{name}/destinations", value, fuse.first_destination, step=2),
        )

    source_keys, destination_keys = part("match/keys", keys)
    source_inverse, destination_inverse = part("match/inverse", inverse)
    across = stage.add("Transpose", "match/keys/across", destination_keys, perm=[0, 2, 1])
    product = stage.add("MatMul", "match/product", source_keys, across)
    destination_row = stage.add("Transpose", "match/inverse/across", destination_inverse, perm=[0, 2, 1])
    # The source's own norm scales a whole row: it cannot change which destination is best, so it comes after.
    scaled = stage.add("Mul", "match/scaled", product, destination_row)
    best = stage.add("ReduceMax", "match/best", scaled, stage.ints("match/best/axis", -1), keepdims=1)
    scores = stage.add(
        "Squeeze",
        "match/scores",
        stage.add("Mul", "match/cosine", best, source_inverse),
        stage.ints("match/scores/axis", -1),
    )
    _, order = stage.add_many(
        "TopK",
        ("match/sorted", "match/order"),
        scores,
        stage.ints("match/order/k", fuse.sources),
        axis=-1,
        largest=1,
        sorted=1,
    )
    kept = None
    if fuse.sources > fuse.removed:
        kept, _ = stage.add_many(
            "TopK",
            ("match/kept", "match/kept/order"),
            stage.slice("match/staying", order, fuse.removed),
            stage.ints("match/kept/k", fuse.sources - fuse.removed),
            axis=-1,
            largest=0,
            sorted=1,
        )
    if not (fuse.merges or mapped):
        return Decisions(kept, None, None)
    matched = stage.slice("match/matched", order, 0, stop=fuse.removed)
    nearest = stage.add("ArgMax", "match/nearest", scaled, axis=-1, keepdims=0)
    return Decisions(kept, matched, stage.add("GatherElements", "match/target", nearest, matched, axis=1))
