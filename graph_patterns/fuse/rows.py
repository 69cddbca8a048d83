"""Pick rows of the token sequence, by positions that are equal for all images, or by the index of a source.

`Gather` through expanded indices would materialise an int64 [B, K, C]; GatherND needs [B, K, 1].
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from tofu_export.graph_patterns.canonical import FuseNode
from tofu_export.graph_patterns.stage import Stage
from tofu_export.options import Positions

__all__ = ["gather_sources", "joining_rows", "places_of", "take"]


def take(stage: Stage, name: str, values: ir.Value, positions: Positions) -> ir.Value:
    """Take the rows [B, K, *] of `values` [B, N, *] at these positions; a range reaches to the end of the sequence."""
    if isinstance(positions, range):
        return stage.slice(name, values, positions.start, step=positions.step)
    return stage.add("Gather", name, values, stage.ints(f"{name}/places", *positions), axis=1)


def places_of(stage: Stage, name: str, index: ir.Value, positions: Positions, shift: int = 0) -> ir.Value:
    """Return the positions of the sources `index` [B, K] in the sequence, plus `shift`."""
    if not isinstance(positions, range):
        table = np.array(positions, dtype=np.int64) + shift
        return stage.add("Gather", f"{name}/position", stage.constant(f"{name}/positions", table), index, axis=0)
    places = index
    if positions.step != 1:
        places = stage.add("Mul", f"{name}/even", places, stage.ints(f"{name}/two", positions.step))
    if start := positions.start + shift:
        places = stage.add("Add", f"{name}/position", places, stage.ints(f"{name}/first", start))
    return places


def gather_sources(stage: Stage, fuse: FuseNode, name: str, rows: ir.Value, index: ir.Value) -> ir.Value:
    """Gather rows [B, K, *] of the whole sequence `rows` [B, N, *] at source indices `index` [B, K]."""
    places = places_of(stage, name, index, fuse.roles.sources)
    column = stage.add("Unsqueeze", f"{name}/column", places, stage.ints(f"{name}/axis", -1))
    return stage.add("GatherND", name, rows, column, batch_dims=1)


def joining_rows(stage: Stage, fuse: FuseNode, name: str, rows: ir.Value, matched: ir.Value | None) -> ir.Value:
    """Gather rows [B, K, *] of the sources of a matching: those listed, or all."""
    if matched is None:
        return take(stage, name, rows, fuse.roles.sources)
    return gather_sources(stage, fuse, name, rows, matched)
