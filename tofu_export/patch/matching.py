"""Data that selections share, and bipartite matching: which source leaves, which destination it joins.

Axes: B batch, N tokens, P prefix tokens, S sources, T destinations, R removed, J tokens that can be joined, D channels
of the metric. `tofu_export.options.Roles` defines which tokens these are.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tofu_export.options import Positions, Roles

__all__ = [
    "NORM_FLOOR",
    "Candidates",
    "Matching",
    "Scores",
    "cosines",
    "gather_rows",
    "match",
    "pooled_matching",
    "similarity",
    "take",
]

NORM_FLOOR = 1e-12
"""Floor of norms, as in `torch.nn.functional.normalize`: a zero key is similar to nothing."""


class Candidates(NamedTuple):
    """Input of a selection.

    Attributes:
        metric: [B, N, D] vectors that tokens are compared by, any floating-point type; None if they are ranked alone.
        roles: what the tokens may do.
        layer: index of the block.
        depth: number of blocks.
        importance: [B, N] float32, over 0, by which the selection ranks tokens; None if it does not.
    """

    metric: Tensor | None
    roles: Roles
    layer: int
    depth: int
    importance: Tensor | None = None


class Scores(NamedTuple):
    """Scores that decisions are made by, and judged by (`compare.decisions`).

    Attributes:
        pairs: [B, S, T] cosine similarity of sources and destinations, [B, S, S] in a pool; None if all that leave
            join one token.
        order: [B, S], by which sources are ranked, the largest leaving first; None for the maximum of each source's
            `pairs`.
        threshold: cosine at which `order` is discontinuous in each pair; None if it is continuous.
    """

    pairs: Tensor | None
    order: Tensor | None = None
    threshold: float | None = None


class Matching(NamedTuple):
    """Decisions of one layer. Sources are indexed among sources, targets among the tokens that can be joined.

    Attributes:
        kept: [B, S-R] int64, sources that stay, in ascending order.
        matched: [B, R] int64, sources that leave, the first choice first.
        target: [B, R] int64, what each matched source joins: a destination, or in a pool one of `kept`.
        partners: [B, K] int64, sources of a pool that may be joined in this layer, the first choice first; None if all
            tokens that can be joined may be.
    """

    kept: Tensor
    matched: Tensor
    target: Tensor
    partners: Tensor | None = None


def similarity(candidates: Candidates) -> Scores:
    """Return the cosine similarity of every source with every destination.

    Source: arXiv 2312.01026, section 3.1.
    """
    assert candidates.metric is not None  # reduce_state
    roles = candidates.roles
    return Scores(cosines(candidates.metric, roles.sources, roles.destinations))


def cosines(metric: Tensor, rows: Positions, columns: Positions) -> Tensor:
    """Return the cosine similarity of the tokens at `rows` with those at `columns`, [B, rows, columns] float32.

    The product comes first and is normalised afterwards: products of half-precision keys are then exact in TF32
    matrix units, which pre-normalised keys are not.

    Args:
        metric: [B, N, D], any floating-point type; products and norms are taken in float32.
        rows: positions in the sequence.
        columns: positions in the sequence.
    """
    keys = metric.float()
    inverse = keys.square().sum(-1, keepdim=True).clamp_min(NORM_FLOOR**2).rsqrt()
    product = take(keys, rows) @ take(keys, columns).mT
    return product * take(inverse, rows) * take(inverse, columns).mT


def match(scores: Scores, removed: int) -> Matching:
    """Match the `removed` sources that are most similar to a destination.

    Args:
        scores: scores of disjoint sources and destinations.
        removed: sources to match, at most S.

    Ties go to the lower index, among destinations and among sources, as ONNX's ArgMax and TopK do.

    Source: arXiv 2312.01026, section 3.1.
    """
    assert scores.pairs is not None  # similarity
    best, nearest = scores.pairs.max(dim=-1)
    order = best.argsort(dim=-1, descending=True, stable=True)
    matched = order[:, :removed]
    kept = order[:, removed:].sort(dim=-1).values
    return Matching(kept, matched, nearest.gather(1, matched))


def pooled_matching(order: Tensor, matched: Tensor, partners: Tensor, nearest: Tensor) -> Matching:
    """Return the decisions in a pool, where sources join sources.

    Args:
        order: [B, S] all sources, in any order.
        matched: [B, R] sources that leave.
        partners: [B, K] sources that may be joined.
        nearest: [B, R] index into `partners` of what each of `matched` joins.
    """
    stays = torch.ones_like(order).scatter(1, matched, 0)
    kept = (stays.cumsum(1) * stays).argsort(dim=1, stable=True)[:, matched.shape[1] :]
    rank = stays.cumsum(1) - 1  # of each source that stays among them
    return Matching(kept, matched, rank.gather(1, partners.gather(1, nearest)), partners)


def take(values: Tensor, positions: Positions) -> Tensor:
    """Take `values` [B, N, *] at positions of the sequence, [B, K, *]."""
    if isinstance(positions, range):
        return values[:, positions.start : positions.stop : positions.step]
    return values[:, list(positions)]


def gather_rows(tokens: Tensor, index: Tensor) -> Tensor:
    """Gather the rows `index` [B, K] of `tokens` [B, N, C], as [B, K, C]."""
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
