"""What every selection decides and from what, and bipartite matching: which source leaves, which destination it joins.

Axes: B batch, N tokens, P prefix tokens, S sources, T destinations, R removed, J tokens that can be joined, D channels
of the metric. Which tokens these are say `tofu_export.options.Roles`.
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
"""Norms below this count as this, as in `torch.nn.functional.normalize`: a zero key resembles nothing."""


class Candidates(NamedTuple):
    """What a selection chooses from.

    Attributes:
        metric: [B, N, D] what similarity is measured on, any floating-point type.
        roles: what the tokens may do.
        layer: index of the block.
        depth: number of blocks.
        class_attention: [B, N] float32, what the class token attends to, averaged over heads; None if not asked for.
    """

    metric: Tensor
    roles: Roles
    layer: int
    depth: int
    class_attention: Tensor | None = None


class Scores(NamedTuple):
    """What decisions are taken by. They are judged by it, too (`compare.decisions`).

    Attributes:
        pairs: [B, S, T] cosine similarity of sources and destinations, [B, S, S] in a pool; None where all that leave
            join one token.
        order: [B, S], by which sources are ranked, the first to leave being the largest; None for the largest of
            each source's `pairs`.
        threshold: cosine at which `order` jumps, by so much for each pair; None where it is continuous.
    """

    pairs: Tensor | None
    order: Tensor | None = None
    threshold: float | None = None


class Matching(NamedTuple):
    """The decisions of one layer. Sources are counted among sources, and what is joined among what can be joined.

    Attributes:
        kept: [B, S-R] int64, sources that stay, in ascending order.
        matched: [B, R] int64, sources that leave, the first choice first.
        target: [B, R] int64, what each of them joins: a destination, or in a pool one of `kept`.
        partners: [B, K] int64, sources of a pool that may be joined in this layer, the first choice first; None where
            all that can be joined may.
    """

    kept: Tensor
    matched: Tensor
    target: Tensor
    partners: Tensor | None = None


def similarity(candidates: Candidates) -> Scores:
    """Cosine similarity of every source with every destination.

    Source: arXiv 2312.01026, section 3.1.
    """
    roles = candidates.roles
    return Scores(cosines(candidates.metric, roles.sources, roles.destinations))


def cosines(metric: Tensor, rows: Positions, columns: Positions) -> Tensor:
    """Cosine similarity of the tokens at `rows` with those at `columns`, [B, rows, columns] float32.

    The product comes first and is normalised afterwards: products of half-precision keys are then exact in TF32
    matrix units, which pre-normalised keys are not.

    Args:
        metric: [B, N, D], any floating-point type; products and norms are taken in float32.
        rows: places in the sequence.
        columns: places in the sequence.
    """
    keys = metric.float()
    inverse = keys.square().sum(-1, keepdim=True).clamp_min(NORM_FLOOR**2).rsqrt()
    product = take(keys, rows) @ take(keys, columns).mT
    return product * take(inverse, rows) * take(inverse, columns).mT


def match(scores: Scores, removed: int) -> Matching:
    """Match the `removed` sources that resemble a destination most.

    Args:
        scores: of sources and destinations that lie apart.
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
    """Decisions in a pool.

    Args:
        order: [B, S] all sources, in any order.
        matched: [B, R] those that leave.
        partners: [B, K] those that may be joined.
        nearest: [B, R] index into `partners` of what each of `matched` joins.
    """
    stays = torch.ones_like(order).scatter(1, matched, 0)
    kept = (stays.cumsum(1) * stays).argsort(dim=1, stable=True)[:, matched.shape[1] :]
    rank = stays.cumsum(1) - 1  # of each source that stays among them
    return Matching(kept, matched, rank.gather(1, partners.gather(1, nearest)), partners)


def take(values: Tensor, positions: Positions) -> Tensor:
    """What `values` [B, N, *] are at these places of the sequence, [B, K, *]."""
    if isinstance(positions, range):
        return values[:, positions.start : positions.stop : positions.step]
    return values[:, list(positions)]


def gather_rows(tokens: Tensor, index: Tensor) -> Tensor:
    """Rows `index` [B, K] of `tokens` [B, N, C], as [B, K, C]."""
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
