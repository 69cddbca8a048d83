"""Selection by importance: the tokens with the lowest score leave, whatever the score is.

Axes as in `matching`; S are all tokens but the prefix.

Source: EViT, arXiv 2202.07800, section 3, whose score is the attention of the class token.
"""

from __future__ import annotations

import math

from tofu_export.patch.matching import Candidates, Matching, Scores, pooled_matching, take

__all__ = ["LEAST_IMPORTANCE", "budget_scores", "importance_scores", "match_by_importance"]

LEAST_IMPORTANCE = 1e-12
"""Floor of importance, so that tokens that nothing attends to, or that no predictor keeps, have a mean, too."""


def importance_scores(candidates: Candidates) -> Scores:
    """Score tokens by the negative logarithm of their importance, as a share of the largest score.

    Rounding of logits, which importance is a softmax of, is relative in the same way.
    """
    assert candidates.importance is not None  # reduce_state
    unseen = -take(candidates.importance, candidates.roles.sources).log()
    return Scores(None, unseen / unseen.amax(dim=-1, keepdim=True).clamp_min(LEAST_IMPORTANCE))


def budget_scores(candidates: Candidates) -> Scores:
    """Score tokens by the negative logarithm of the rest of their budgets, as a share of that of a halted one.

    Rounding moves the logarithm by its own size times the steepness of the gate, however much is left; a share of the
    largest score would call rounding large where all tokens have nearly all left.
    """
    assert candidates.importance is not None  # reduce_state
    spent = -take(candidates.importance, candidates.roles.sources).log()
    return Scores(None, spent / -math.log(LEAST_IMPORTANCE))


def match_by_importance(scores: Scores, removed: int) -> Matching:
    """Match the R least important tokens to the next one, which then stands for all: R + 1 become one.

    EViT appends the fused token; here it takes the position of its most important member. Ties go to the lower
    index.
    """
    assert scores.order is not None  # importance_scores
    order = scores.order.argsort(dim=-1, descending=True, stable=True)
    matched, partner = order[:, :removed], order[:, removed : removed + 1]
    return pooled_matching(order, matched, partner, matched * 0)
