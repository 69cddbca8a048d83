"""The token map as ONNX: which row of the reduced sequence stands for each token of the original one.

A scatter without a reduction onto distinct rows, and gathers: what every runtime accepts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import RewriteRuleClassBase

from tofu_export.graph_patterns.canonical import DOMAIN, FuseNode
from tofu_export.graph_patterns.stage import Stage

__all__ = ["RestoreRule", "follow"]


def follow(
    stage: Stage, fuse: FuseNode, rows: ir.Value, kept: ir.Value | None, matched: ir.Value, target: ir.Value
) -> ir.Value:
    """The map after one reduction, [B, N0, 1] int64.

    Args:
        stage: where to add nodes.
        fuse: the reduction, of N tokens with a prefix P.
        rows: [B, N0, 1] int64, the map before it: rows of the sequence that goes in.
        kept: [B, S-R] int64, sources that stay, ascending; None if none does.
        matched: [B, R] int64, sources that leave.
        target: [B, R] int64, the destination that stands for each of them from here on.

    What comes out is prefix, kept sources, destinations: a kept source stands at P plus its rank, a destination d at
    P + S - R + d, and so does a source that leaves for it.
    """
    staying = fuse.sources - fuse.removed
    first = fuse.prefix + staying
    whole = np.zeros(fuse.tokens, dtype=np.int64)  # the rows of sources are written over these
    whole[: fuse.prefix] = np.arange(fuse.prefix)
    whole[fuse.first_destination :: 2] = first + np.arange(fuse.destinations)

    batch = stage.add("Shape", "map/batch", matched, start=0, end=1)

    def for_each_image(name: str, values: np.ndarray) -> ir.Value:
        length = stage.ints(f"{name}/length", len(values))
        shape = stage.add("Concat", f"{name}/shape", batch, length, axis=0)
        return stage.add("Expand", name, stage.constant(f"{name}/values", values[np.newaxis]), shape)

    sources = matched
    new_rows = stage.add("Add", "map/joined", target, stage.ints("map/first", first))
    if kept is not None:
        sources = stage.add("Concat", "map/sources", kept, matched, axis=1)
        ranks = for_each_image("map/ranks", fuse.prefix + np.arange(staying))
        new_rows = stage.add("Concat", "map/rows", ranks, new_rows, axis=1)
    places = stage.add("Mul", "map/even", sources, stage.ints("map/two", 2))
    if fuse.first_source:
        places = stage.add("Add", "map/places", places, stage.ints("map/first_source", fuse.first_source))
    row_of = stage.add("ScatterElements", "map/row_of", for_each_image("map/whole", whole), places, new_rows, axis=1)
    followed = stage.add("GatherND", "map/followed", row_of, rows, batch_dims=1)
    return stage.add("Unsqueeze", "map", followed, stage.ints("map/axis", -1))


class RestoreRule(RewriteRuleClassBase):
    """`tofu::Restore` by a gather of whole rows."""

    def pattern(self, op: Any, x: Any, rows: Any) -> Any:
        """What it looks like."""
        return op.Restore(x, rows, _domain=DOMAIN, _outputs=["restored"])

    def rewrite(self, op: Any, x: ir.Value, rows: ir.Value, restored: ir.Value) -> ir.Value:
        """What instead."""
        node = restored.producer()
        assert node is not None and node.name is not None
        return Stage(op, node.name).add("GatherND", "tokens", x, rows, batch_dims=1)
