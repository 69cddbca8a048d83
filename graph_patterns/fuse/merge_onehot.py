"""Merge by a one-hot matrix product. Accepted by onnxruntime, TensorRT and TensorRT-RTX in every precision.

Scatter with a reduction is what the exporter would write; TensorRT-RTX rejects it and onnxruntime has no half-precision
kernel for it. The one-hot matrix is [B, N', K] with K sources that may join, so the product is small.
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

__all__ = ["merge_onehot"]


def merge_onehot(stage: Stage, fuse: FuseNode, members: Members) -> Merged:
    """Merge by a product; weights are divided by their sum before it, so that no half-precision sum can overflow."""
    joining_pairs = joins(stage, fuse, members.target)
    onehot = stage.add("Cast", "merge/onehot", joining_pairs, to=int(FLOAT))

    def summed(name: str, each: Weights) -> tuple[ir.Value, ir.Value]:
        """Return the weights of sources in each row, [B, N', K], and their sum with the row's own, [B, N', 1]."""
        across = stage.add("Transpose", f"{name}/across", each.joining, perm=[0, 2, 1])
        joining = stage.add("Mul", f"{name}/joining", onehot, across)
        added = stage.add("ReduceSum", f"{name}/added", joining, stage.ints(f"{name}/axis", -1), keepdims=1)
        return joining, stage.add("Add", name, each.rows, added)

    brought = None if members.sizes is None else summed("merge/sizes", members.sizes)
    sizes = None if brought is None else brought[1]
    if members.joining is None:
        return Merged(members.rows, sizes)

    if members.weights is not None:
        if brought is None or members.weights is not members.sizes:
            brought = summed("merge/attention", members.weights)
        weights = stage.add("Div", "merge/weights", *brought)
        own = stage.add("Div", "merge/own", members.weights.rows, brought[1])
    else:
        own = stage.add("Reciprocal", "merge/own", group_sizes(stage, onehot))
        weights = stage.add("Mul", "merge/weights", onehot, own)

    def narrow(name: str, value: ir.Value) -> ir.Value:
        return stage.cast(name, value, FLOAT, fuse.dtype)

    theirs = stage.add("MatMul", "merge/theirs", narrow("merge/weights/narrow", weights), members.joining)
    ours = stage.add("Mul", "merge/ours", members.rows, narrow("merge/own/narrow", own))
    mean = stage.add("Add", "merge/mean", ours, theirs)
    if not fuse.keeps_norm:
        return Merged(mean, sizes)

    lengths = stage.add(
        "Transpose", "merge/lengths/across", norms(stage, fuse, "merge/lengths", members.joining), perm=[0, 2, 1]
    )
    joined = stage.add("Where", "merge/lengths/joined", joining_pairs, lengths, stage.floats("merge/zero", 0.0))
    longest_joined = stage.add(
        "ReduceMax", "merge/lengths/max", joined, stage.ints("merge/lengths/max/axis", -1), keepdims=1
    )
    longest = stage.add("Max", "merge/longest", norms(stage, fuse, "merge/lengths/own", members.rows), longest_joined)
    return Merged(rescale_to_longest(stage, fuse, mean, longest), sizes)
