"""Merge by ScatterElements with add and max. For onnxruntime in float32 only.

TensorRT-RTX rejects scatter reductions at parse time, TensorRT needs a plugin, and onnxruntime's CPU provider has no
half-precision add. Nothing of size N' x R is made; at 197 tokens and r = 16 that is worth nothing (docs/decisions/008).
"""

from __future__ import annotations

import onnx_ir as ir

from tofu_export.graph_patterns.canonical import FuseNode
from tofu_export.graph_patterns.merging import FLOAT, Members, Merged, group_sizes, joins, norms, rescale_to_longest
from tofu_export.graph_patterns.stage import Stage

__all__ = ["merge_scatter"]


def merge_scatter(stage: Stage, fuse: FuseNode, members: Members) -> Merged:
    """Sum the members of each group: of tome by their weights, of the others to be divided or rescaled."""
    row = stage.add("Add", "merge/row", members.target, stage.ints("merge/row/first", fuse.first_row))
    column = stage.add("Unsqueeze", "merge/column", row, stage.ints("merge/column/axis", -1))

    def scatter(name: str, onto: ir.Value, index: ir.Value, updates: ir.Value, reduction: str) -> ir.Value:
        return stage.add("ScatterElements", name, onto, index, updates, axis=1, reduction=reduction)

    sizes = None
    rows, joining = members.rows, members.joining
    if members.sizes is not None and members.joining_sizes is not None:
        sizes = scatter("merge/sizes", members.sizes, column, members.joining_sizes, "add")
    if joining is None:
        return Merged(rows, sizes)
    if fuse.method == "tome":
        assert sizes is not None  # tome always tracks sizes
        rows = stage.add("Mul", "merge/ours", rows, stage.add("Div", "merge/own", members.sizes, sizes))
        groups = stage.add("GatherElements", "merge/sizes/joined", sizes, column, axis=1)
        weights = stage.add("Div", "merge/weights", members.joining_sizes, groups)
        joining = stage.add("Mul", "merge/theirs", joining, weights)

    wide_column = stage.add("Expand", "merge/index", column, stage.add("Shape", "merge/shape", joining))
    total = scatter("merge/total", rows, wide_column, joining, "add")
    if fuse.method == "tome":
        return Merged(total, sizes)

    if fuse.method == "average":
        onehot = stage.add("Cast", "merge/onehot", joins(stage, fuse, members.target), to=int(FLOAT))
        return Merged(stage.add("Div", "merge/mean", total, group_sizes(stage, onehot)), sizes)

    # MLERP: the direction of the mean is the direction of the sum, the count cancels.
    own = norms(stage, fuse, "merge/lengths/own", rows)
    longest = scatter("merge/longest", own, column, norms(stage, fuse, "merge/lengths", joining), "max")
    return Merged(rescale_to_longest(stage, fuse, total, longest), sizes)
