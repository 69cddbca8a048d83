"""Match by sorting: one bounded TopK, and one that sorts the kept sources by position. Fastest in onnxruntime.

Kept sources are put in ascending order: in order of score, noise of 1e-7 would change which tokens later layers call
even and odd (measured: errors of 1.1 in the output).
"""

from __future__ import annotations

from tofu_export.graph_patterns.canonical import FuseNode
from tofu_export.graph_patterns.fuse.matching import Decisions, Similarity
from tofu_export.graph_patterns.fuse.pool import ascending, ranked
from tofu_export.graph_patterns.stage import Stage

__all__ = ["match_sort"]


def match_sort(stage: Stage, fuse: FuseNode, similarity: Similarity) -> Decisions:
    """Take the most similar sources from a sorted list. Ties go to the lower index (ONNX TopK and ArgMax)."""
    scores = stage.add("Squeeze", "match/scores", similarity.cosine, stage.ints("match/scores/axis", -1))
    order = ranked(stage, fuse, scores, largest=True)
    kept = None
    if fuse.roles.staying:
        kept = ascending(stage, fuse, stage.slice("match/staying", order, fuse.removed))
    if not fuse.follows:
        return Decisions(kept, None, None)
    matched = stage.slice("match/matched", order, 0, stop=fuse.removed)
    nearest = stage.add("ArgMax", "match/nearest", similarity.scaled, axis=-1, keepdims=0)
    return Decisions(kept, matched, stage.add("GatherElements", "match/target", nearest, matched, axis=1))
