"""Merging of tokens: a mean, weighted or not, with its own norm or that of MLERP.

All sums run in float32 or wider. Axes as in `matching`; C is the channels of a token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tofu_export.patch.matching import NORM_FLOOR

__all__ = ["merge", "merge_sizes"]


def merge(
    tokens: Tensor, leaving: Tensor, target: Tensor, weights: tuple[Tensor, Tensor] | None, *, keeps_norm: bool
) -> Tensor:
    """Merge the tokens that leave into those that stay, [B, T, C] in the type of `tokens`.

    Args:
        tokens: [B, T, C], tokens that stay.
        leaving: [B, R, C], tokens that leave.
        target: [B, R] int64, the row of `tokens` that each of `leaving` joins.
        weights: [B, T, 1] and [B, R, 1] of both in the mean, over 0; None: all equal.
        keeps_norm: a merged token gets the largest norm of its group.

    A token that nothing joined is returned bit for bit.

    Source: average: arXiv 2312.01026, equation 6. MLERP: equations 9 and 10. ToMe: arXiv 2210.09461, section 3.
    """
    wide = torch.promote_types(tokens.dtype, torch.float32)
    old, joining = tokens.to(wide), leaving.to(wide)
    ones = torch.ones_like(old[..., :1]), torch.ones_like(joining[..., :1])
    own, theirs = ones if weights is None else (weight.to(wide) for weight in weights)
    total = _add(own, theirs, target)
    mean = _add(old * own, joining * theirs, target) / total
    if keeps_norm:
        norm = old.norm(dim=-1, keepdim=True)
        longest = norm.scatter_reduce(1, target.unsqueeze(-1), joining.norm(dim=-1, keepdim=True), "amax")
        mean = mean / mean.norm(dim=-1, keepdim=True).clamp_min(NORM_FLOOR) * longest
    joined = _add(torch.zeros_like(ones[0]), ones[1], target) > 0
    return torch.where(joined, mean.to(tokens.dtype), tokens)


def merge_sizes(sizes: Tensor, leaving: Tensor, target: Tensor) -> Tensor:
    """Add the sizes [B, R, 1] of tokens that leave to the sizes [B, T, 1] of those that stay."""
    return _add(sizes, leaving, target)


def _add(values: Tensor, joining: Tensor, target: Tensor) -> Tensor:
    index = target.unsqueeze(-1).expand(-1, -1, joining.shape[-1])
    return values.scatter_add(1, index, joining)
