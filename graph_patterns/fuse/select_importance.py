"""Selection by importance, which is an input of the node.

Source: EViT, arXiv 2202.07800, section 3; see `patch.importance`.
"""

from __future__ import annotations

import onnx_ir as ir

from tofu_export.graph_patterns.canonical import FuseNode
from tofu_export.graph_patterns.fuse.matching import Decisions
from tofu_export.graph_patterns.fuse.pool import ascending, joining_kept, ranked
from tofu_export.graph_patterns.fuse.rows import take
from tofu_export.graph_patterns.stage import Stage

__all__ = ["select_importance"]


def select_importance(stage: Stage, fuse: FuseNode, importance: ir.Value) -> Decisions:
    """Match the R least important tokens to the next one, by `importance` [B, N] float32.

    The name of what they are ranked by tells verification how to judge: a budget, or a share of something.
    """
    name = "match/budget" if fuse.select.halts else "match/importance"
    scores = take(stage, name, importance, fuse.roles.sources)
    order = ranked(stage, fuse, scores, largest=False)
    kept = ascending(stage, fuse, stage.slice("match/staying", order, fuse.removed))
    if not fuse.follows:
        return Decisions(kept, None, None)
    matched = stage.slice("match/matched", order, 0, stop=fuse.removed)
    partner = stage.slice("match/partners", order, fuse.removed, stop=fuse.removed + 1)
    return joining_kept(stage, kept, matched, partner)
