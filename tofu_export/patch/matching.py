"""Bipartite soft matching: which source leaves, and which destination it joins.

Axes: B batch, N tokens, P prefix tokens, S sources, T destinations, R removed, D channels of the metric.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["NORM_FLOOR", "Matching", "Partition", "match", "similarity"]

NORM_FLOOR = 1e-12
"""Norms below this count as this, as in `torch.nn.functional.normalize`: a zero key resembles nothing."""


class Partition(NamedTuple):
    """Slices of the token axis that hold sources and destinations; the prefix is in neither.

    Sources are the even positions of the whole sequence and destinations the odd ones.

    Source: arXiv 2312.01026, section 3.1 (alternating bipartite sets).
    """

    sources: slice
    destinations: slice

    @classmethod
    def of(cls, prefix: int) -> Partition:
        """The partition of a sequence that starts with `prefix` protected tokens."""
        first_even = prefix + prefix % 2
        first_odd = prefix + 1 - prefix % 2
        return cls(slice(first_even, None, 2), slice(first_odd, None, 2))


class Matching(NamedTuple):
    """The decisions of one layer, as indices into the sources and destinations of a `Partition`.

    Attributes:
        kept: [B, S-R] int64, sources that stay, in ascending order.
        matched: [B, R] int64, sources that leave, most similar first.
        target: [B, R] int64, the destination of each matched source.
    """

    kept: Tensor
    matched: Tensor
    target: Tensor


def similarity(metric: Tensor, prefix: int) -> Tensor:
    """Cosine similarity of every source with every destination, [B, S, T] float32.

    Args:
        metric: [B, N, D], any floating-point type; products and norms are taken in float32.
        prefix: protected tokens at the front.

    The product comes first and is normalised afterwards: products of half-precision keys are then exact in TF32
    matrix units, which pre-normalised keys are not.

    Source: arXiv 2312.01026, section 3.1.
    """
    keys = metric.float()
    inverse = keys.square().sum(-1, keepdim=True).clamp_min(NORM_FLOOR**2).rsqrt()
    sources, destinations = Partition.of(prefix)
    product = keys[:, sources] @ keys[:, destinations].mT
    return product * inverse[:, sources] * inverse[:, destinations].mT


def match(scores: Tensor, removed: int) -> Matching:
    """Match the `removed` sources that resemble a destination most.

    Args:
        scores: [B, S, T] similarity of sources and destinations.
        removed: sources to match, at most S.

    Ties go to the lower index, among destinations and among sources, as ONNX's ArgMax and TopK do.

    Source: arXiv 2312.01026, section 3.1.
    """
    best, nearest = scores.max(dim=-1)
    order = best.argsort(dim=-1, descending=True, stable=True)
    matched = order[:, :removed]
    kept = order[:, removed:].sort(dim=-1).values
    return Matching(kept, matched, nearest.gather(1, matched))


def gather_rows(tokens: Tensor, index: Tensor) -> Tensor:
    """Rows `index` [B, K] of `tokens` [B, N, C], as [B, K, C]."""
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
