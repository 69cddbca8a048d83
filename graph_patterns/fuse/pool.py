"""Ranks of sources, and decisions in a pool, in which leaving sources join staying ones."""

from __future__ import annotations

import onnx_ir as ir

from tofu_export.graph_patterns.canonical import FuseNode
from tofu_export.graph_patterns.fuse.matching import FLOAT, Decisions
from tofu_export.graph_patterns.stage import Stage

__all__ = ["ascending", "joining_kept", "ranked"]


def ranked(stage: Stage, fuse: FuseNode, scores: ir.Value, *, largest: bool) -> ir.Value:
    """Return all sources ordered by `scores` [B, S], int64 [B, S]. Ties go to the lower index (ONNX TopK)."""
    _, order = stage.add_many(
        "TopK",
        ("match/sorted", "match/order"),
        scores,
        stage.ints("match/order/k", fuse.sources),
        axis=-1,
        largest=int(largest),
        sorted=1,
    )
    return order


def ascending(stage: Stage, fuse: FuseNode, staying: ir.Value) -> ir.Value:
    """Sort the sources that stay, [B, S-R] int64, by position."""
    kept, _ = stage.add_many(
        "TopK",
        ("match/kept", "match/kept/order"),
        staying,
        stage.ints("match/kept/k", fuse.roles.staying),
        axis=-1,
        largest=0,
        sorted=1,
    )
    return kept


def joining_kept(stage: Stage, kept: ir.Value, matched: ir.Value, joined: ir.Value) -> Decisions:
    """Return the decisions, given the source that each leaving source joins.

    The index of a kept source is its position minus the number of leaving sources before it: counted in float32, exact.

    Args:
        stage: stage to add nodes to.
        kept: [B, S-R] int64, ascending.
        matched: [B, R] int64, sources that leave.
        joined: [B, R] or [B, 1] int64, the source that each, or all of them, join.
    """
    column = stage.add("Unsqueeze", "match/column", joined, stage.ints("match/column/axis", 2))
    row = stage.add("Unsqueeze", "match/row", matched, stage.ints("match/row/axis", 1))
    before = stage.add("Cast", "match/before", stage.add("Less", "match/less", row, column), to=int(FLOAT))
    left = stage.add("ReduceSum", "match/left", before, stage.ints("match/left/axis", -1), keepdims=0)
    rank = stage.add("Sub", "match/rank", stage.add("Cast", "match/joined/wide", joined, to=int(FLOAT)), left)
    each = stage.add("Expand", "match/each", rank, stage.add("Shape", "match/matched/shape", matched))
    return Decisions(kept, matched, stage.add("Cast", "match/target", each, to=int(ir.DataType.INT64)))
