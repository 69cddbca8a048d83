"""Token maps in ONNX: the row of the reduced sequence for each token, and for each patch.

A scatter without a reduction onto distinct rows, and gathers: what every runtime accepts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import RewriteRuleClassBase

from tofu_export.graph_patterns.canonical import DOMAIN, FuseNode
from tofu_export.graph_patterns.fuse.matching import Decisions
from tofu_export.graph_patterns.fuse.rows import places_of
from tofu_export.graph_patterns.stage import Stage

__all__ = ["RestoreRule", "follow", "follow_groups"]


def follow(stage: Stage, fuse: FuseNode, rows: ir.Value, decisions: Decisions) -> ir.Value:
    """Update `rows` for one reduction, [B, N0, 1] int64.

    Args:
        stage: stage to add nodes to.
        fuse: the reduction, of N tokens.
        rows: [B, N0, 1] int64, the map before the reduction: rows of its input sequence.
        decisions: a list of leaving sources, with targets.
    """
    return _followed(stage, fuse, "map", rows, decisions, first_row=0, leaving=True)


def follow_groups(stage: Stage, fuse: FuseNode, groups: ir.Value, decisions: Decisions) -> ir.Value:
    """Update `groups` for one reduction, [B, patches, 1] int64.

    Args:
        stage: stage to add nodes to.
        fuse: the reduction, of N tokens.
        groups: [B, patches, 1] int64, the map before the reduction: 1 plus rows of its input sequence, 0 for none.
        decisions: sources that stay, and if the reduction merges, a list of leaving sources, with targets.
    """
    return _followed(stage, fuse, "groups", groups, decisions, first_row=1, leaving=fuse.merges)


def _followed(
    stage: Stage, fuse: FuseNode, name: str, values: ir.Value, decisions: Decisions, *, first_row: int, leaving: bool
) -> ir.Value:
    """Look up for each of `values` the output row of the token in that input row.

    The output is prefix P, kept sources, destinations: a kept source is at P plus its rank, a destination d at
    P + S - R + d, and so is a source that joins it; in a pool it is at the row of the kept source. The table
    [B, first_row + N] holds the rows of prefix and destinations from the start, and 0 for all others.

    Args:
        stage: stage to add nodes to.
        fuse: the reduction.
        name: name of the map.
        values: [B, K, 1] int64, `first_row` plus rows of the input sequence.
        decisions: decisions of the reduction.
        first_row: number of the first row of a sequence in the map.
        leaving: write the rows of leaving sources; else they get 0.
    """
    roles = fuse.roles
    first = first_row + roles.first_row
    whole = np.zeros(first_row + fuse.tokens, dtype=np.int64)
    whole[first_row : first_row + fuse.prefix] = first_row + np.arange(fuse.prefix)
    whole[first_row + np.array(roles.destinations, dtype=np.int64)] = (
        first_row + fuse.prefix + roles.staying + np.arange(fuse.destinations)
    )

    sources = decisions.matched if leaving else None
    batch = stage.add("Shape", f"{name}/batch", values if sources is None else sources, start=0, end=1)

    def for_each_image(part: str, array: np.ndarray) -> ir.Value:
        length = stage.ints(f"{name}/{part}/length", len(array))
        shape = stage.add("Concat", f"{name}/{part}/shape", batch, length, axis=0)
        return stage.add("Expand", f"{name}/{part}", stage.constant(f"{name}/{part}/values", array[np.newaxis]), shape)

    def joined(part: str, front: ir.Value, back: ir.Value | None) -> ir.Value:
        return front if back is None else stage.add("Concat", f"{name}/{part}", front, back, axis=1)

    rows: ir.Value | None = None
    if sources is not None:
        rows = stage.add("Add", f"{name}/joined", decisions.target, stage.ints(f"{name}/first", first))
    if decisions.kept is not None:
        sources = joined("sources", decisions.kept, sources)
        rows = joined("rows", for_each_image("ranks", first_row + fuse.prefix + np.arange(roles.staying)), rows)
    if sources is None:  # all sources leave, and none has a target
        table = for_each_image("whole", whole)
    else:
        places = places_of(stage, f"{name}/places", sources, roles.sources, first_row)
        table = stage.add("ScatterElements", f"{name}/row_of", for_each_image("whole", whole), places, rows, axis=1)
    followed = stage.add("GatherND", f"{name}/followed", table, values, batch_dims=1)
    return stage.add("Unsqueeze", name, followed, stage.ints(f"{name}/axis", -1))


class RestoreRule(RewriteRuleClassBase):
    """Replace `tofu::Restore` by a gather of whole rows."""

    def pattern(self, op: Any, x: Any, rows: Any) -> Any:
        """Return the pattern to match."""
        return op.Restore(x, rows, _domain=DOMAIN, _outputs=["restored"])

    def rewrite(self, op: Any, x: ir.Value, rows: ir.Value, restored: ir.Value) -> ir.Value:
        """Return the replacement."""
        node = restored.producer()
        assert node is not None and node.name is not None
        return Stage(op, node.name).add("GatherND", "tokens", x, rows, batch_dims=1)
