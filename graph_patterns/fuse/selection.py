"""Pick rows of the token sequence by source index: GatherND with one batch dimension.

`Gather` through expanded indices would materialise an int64 [B, K, C]; GatherND needs [B, K, 1].
"""

from __future__ import annotations

import onnx_ir as ir

from tofu_export.graph_patterns.canonical import FuseNode
from tofu_export.graph_patterns.stage import Stage

__all__ = ["gather_sources", "joining_rows"]


def gather_sources(stage: Stage, fuse: FuseNode, name: str, rows: ir.Value, index: ir.Value) -> ir.Value:
    """Rows [B, K, *] of the whole sequence `rows` [B, N, *] at source indices `index` [B, K]."""
    positions = stage.add("Mul", f"{name}/even", index, stage.ints(f"{name}/two", 2))
    if fuse.first_source:
        positions = stage.add("Add", f"{name}/position", positions, stage.ints(f"{name}/first", fuse.first_source))
    column = stage.add("Unsqueeze", f"{name}/column", positions, stage.ints(f"{name}/axis", -1))
    return stage.add("GatherND", name, rows, column, batch_dims=1)


def joining_rows(stage: Stage, fuse: FuseNode, name: str, rows: ir.Value, matched: ir.Value | None) -> ir.Value:
    """Rows [B, K, *] of the sources that a matching speaks of: those listed, or all of them."""
    if matched is None:
        return stage.slice(name, rows, fuse.first_source, step=2)
    return gather_sources(stage, fuse, name, rows, matched)
