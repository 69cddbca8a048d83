"""Merge by ScatterElements with add and max. For onnxruntime in float32 only.

TensorRT-RTX rejects scatter reductions at parse time, TensorRT needs a plugin, and onnxruntime's CPU provider has no
half-precision add. Nothing of size N' x R is made; at 197 tokens and r = 16 that gains nothing (docs/decisions/008).
"""

from __future__ import annotations

import onnx_ir as ir

from tofu_export.graph_patterns.canonical import FuseNode
from tofu_export.graph_patterns.fuse.merging import (
    FLOAT,
    Members,
    Merged,
    Weights,
    group_sizes,
    joins,
    norms,
    rescale_to_longest,
)
from tofu_export.graph_patterns.stage import Stage

__all__ = ["merge_scatter"]


def merge_scatter(stage: Stage, fuse: FuseNode, members: Members) -> Merged:
    """Sum the members of each group: weighted by sizes, or else to be divided by their number or rescaled."""
    row = stage.add("Add", "merge/row", members.target, stage.ints("merge/row/first", fuse.roles.first_row))
    column = stage.add("Unsqueeze", "merge/column", row, stage.ints("merge/column/axis", -1))

    def scatter(name: str, onto: ir.Value, index: ir.Value, updates: ir.Value, reduction: str) -> ir.Value:
        return stage.add("ScatterElements", name, onto, index, updates, axis=1, reduction=reduction)

    def summed(name: str, each: Weights) -> ir.Value:
        return scatter(name, each.rows, column, each.joining, "add")

    sizes = None if members.sizes is None else summed("merge/sizes", members.sizes)
    if members.joining is None:
        return Merged(members.rows, sizes)

    rows, joining, weights = members.rows, members.joining, members.weights
    if weights is not None:
        known = sizes is not None and weights is members.sizes
        whole = sizes if known else summed("merge/attention", weights)
        rows = stage.add("Mul", "merge/ours", rows, stage.add("Div", "merge/own", weights.rows, whole))
        groups = stage.add("GatherElements", "merge/sizes/joined", whole, column, axis=1)
        shares = stage.add("Div", "merge/weights", weights.joining, groups)
        joining = stage.add("Mul", "merge/theirs", joining, shares)
    wide_column = stage.add("Expand", "merge/index", column, stage.add("Shape", "merge/shape", joining))
    total = scatter("merge/total", rows, wide_column, joining, "add")
    if fuse.keeps_norm:  # the direction of a mean is that of the sum: the count cancels
        own = norms(stage, fuse, "merge/lengths/own", members.rows)
        lengths = norms(stage, fuse, "merge/lengths", members.joining)
        longest = scatter("merge/longest", own, column, lengths, "max")
        return Merged(rescale_to_longest(stage, fuse, total, longest), sizes)
    if weights is not None:
        return Merged(total, sizes)
    onehot = stage.add("Cast", "merge/onehot", joins(stage, fuse, members.target), to=int(FLOAT))
    return Merged(stage.add("Div", "merge/mean", total, group_sizes(stage, onehot)), sizes)
