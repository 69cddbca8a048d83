"""How matched sources join their destinations: a mean, weighted by sizes or not, at its own length or MLERP's.

All sums run in float32 or wider. Axes as in `matching`; C is the channels of a token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tofu_export.options import Method
from tofu_export.patch.matching import NORM_FLOOR

__all__ = ["merge", "merge_sizes"]


def merge(
    destinations: Tensor, matched: Tensor, target: Tensor, method: Method, sizes: tuple[Tensor, Tensor]
) -> Tensor:
    """Destinations after their matched sources joined them, [B, T, C] in the type of `destinations`.

    Args:
        destinations: [B, T, C].
        matched: [B, R, C], the sources that leave.
        target: [B, R] int64, the destination of each.
        method: AVERAGE, MLERP, WEIGHTED_MLERP or TOME.
        sizes: [B, T, 1] and [B, R, 1], the number of patches behind each destination and matched source.

    A destination that nothing joined comes back bit for bit.

    Source: average: arXiv 2312.01026, equation 6. MLERP: equations 9 and 10. ToMe: arXiv 2210.09461, section 3.
    """
    wide = torch.promote_types(destinations.dtype, torch.float32)
    old, joining = destinations.to(wide), matched.to(wide)
    weights, joining_weights = (size.to(wide) for size in sizes)
    if not method.weighs:
        weights, joining_weights = torch.ones_like(weights), torch.ones_like(joining_weights)
    total = _add(weights, joining_weights, target)
    mean = _add(old * weights, joining * joining_weights, target) / total
    if method.keeps_norm:
        norm = old.norm(dim=-1, keepdim=True)
        longest = norm.scatter_reduce(1, target.unsqueeze(-1), joining.norm(dim=-1, keepdim=True), "amax")
        mean = mean / mean.norm(dim=-1, keepdim=True).clamp_min(NORM_FLOOR) * longest
    joined = _add(torch.zeros_like(weights), torch.ones_like(joining_weights), target) > 0
    return torch.where(joined, mean.to(destinations.dtype), destinations)


def merge_sizes(sizes: Tensor, matched: Tensor, target: Tensor) -> Tensor:
    """Sizes [B, T, 1] of the destinations after the matched sources' sizes [B, R, 1] were added."""
    return _add(sizes, matched, target)


def _add(destinations: Tensor, matched: Tensor, target: Tensor) -> Tensor:
    index = target.unsqueeze(-1).expand(-1, -1, matched.shape[-1])
    return destinations.scatter_add(1, index, matched)
