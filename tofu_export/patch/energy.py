"""Selection by energy: tokens with many similar neighbours merge, isolated tokens are protected.

Axes as in `matching`; S are all tokens but the prefix.

Source: PiToMe, arXiv 2405.16148, section 3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tofu_export.options import energy_margin
from tofu_export.patch.matching import Candidates, Matching, Scores, cosines, pooled_matching

__all__ = ["energy_scores", "match_by_energy"]


def energy_scores(candidates: Candidates) -> Scores:
    """Return the cosines of all pairs, and the energy of each token: the mean of `f(cosine)` over all tokens.

    With the margin m of the layer, f(x) is x from m on and exp(x - m) - 1 below. A token's similarity with itself adds
    the same to every energy.
    """
    assert candidates.metric is not None  # reduce_state
    margin = energy_margin(candidates.layer, candidates.depth)
    pairs = cosines(candidates.metric, candidates.roles.sources, candidates.roles.sources)
    energy = torch.where(pairs >= margin, pairs, (pairs - margin).exp() - 1.0).mean(dim=-1)
    return Scores(pairs, energy, margin)


def match_by_energy(scores: Scores, removed: int) -> Matching:
    """Rank tokens by falling energy; of the first 2R, every first one joins its nearest among every second one.

    Ties go to the lower index in the ranking, and to the higher rank among partners.
    """
    assert scores.pairs is not None and scores.order is not None  # energy_scores
    order = scores.order.argsort(dim=-1, descending=True, stable=True)
    matched, partners = order[:, 0 : 2 * removed : 2], order[:, 1 : 2 * removed : 2]
    return pooled_matching(order, matched, partners, _between(scores.pairs, matched, partners).max(dim=-1).indices)


def _between(pairs: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Select from `pairs` [B, S, S] the `rows` [B, R] and `columns` [B, K], as [B, R, K]."""
    images = torch.arange(len(pairs), device=pairs.device)[:, None, None]
    return pairs[images, rows[:, :, None], columns[:, None, :]]
