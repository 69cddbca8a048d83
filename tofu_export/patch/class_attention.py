"""Selection by class attention: the tokens that the class token attends to least leave.

Axes as in `matching`; S are all tokens but the prefix.

Source: EViT, arXiv 2202.07800, section 3.
"""

from __future__ import annotations

from tofu_export.patch.matching import Candidates, Matching, Scores, pooled_matching, take

__all__ = ["attention_scores", "match_by_attention"]


def attention_scores(candidates: Candidates) -> Scores:
    """Score tokens by the negative logarithm of their class attention, as a share of the largest score.

    Rounding of logits is relative in the same way.
    """
    assert candidates.class_attention is not None  # reduce_state
    unseen = -take(candidates.class_attention, candidates.roles.sources).log()
    return Scores(None, unseen / unseen.amax(dim=-1, keepdim=True))


def match_by_attention(scores: Scores, removed: int) -> Matching:
    """Match the R least attended tokens to the next one, which then stands for all: R + 1 become one.

    The paper appends the fused token; here it takes the position of its most attended member. Ties go to the lower
    index.
    """
    assert scores.order is not None  # attention_scores
    order = scores.order.argsort(dim=-1, descending=True, stable=True)
    matched, partner = order[:, :removed], order[:, removed : removed + 1]
    return pooled_matching(order, matched, partner, matched * 0)
