"""Selection by the attention of the class token, which is an input of the node.

Source: EViT, arXiv 2202.07800, section 3; see `patch.class_attention`.
"""

from __future__ import annotations

import onnx_ir as ir

from tofu_export.graph_patterns.canonical import FuseNode
from tofu_export.graph_patterns.fuse.matching import Decisions
from tofu_export.graph_patterns.fuse.pool import ascending, joining_kept, ranked
from tofu_export.graph_patterns.fuse.rows import take
from tofu_export.graph_patterns.stage import Stage

__all__ = ["select_attention"]


def select_attention(stage: Stage, fuse: FuseNode, class_attention: ir.Value) -> Decisions:
    """Match the R least attended tokens to the next one, by `class_attention` [B, N] float32."""
    attention = take(stage, "match/attention", class_attention, fuse.roles.sources)
    order = ranked(stage, fuse, attention, largest=False)
    kept = ascending(stage, fuse, stage.slice("match/staying", order, fuse.removed))
    if not fuse.follows:
        return Decisions(kept, None, None)
    matched = stage.slice("match/matched", order, 0, stop=fuse.removed)
    partner = stage.slice("match/partners", order, fuse.removed, stop=fuse.removed + 1)
    return joining_kept(stage, kept, matched, partner)
