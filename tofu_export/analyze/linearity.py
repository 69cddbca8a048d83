"""Functional linearity: how straight a function maps the segment between two tokens. Equation 8 of the paper.

    linearity(f; x1, x2) = ||f(x1) - f(x2)|| / sum_k ||f(p_k) - f(p_k+1)||,   p_k = x1 + (k / K) (x2 - x1), k = 0 .. K-1

It is 1 where f is linear along the segment, and smaller the longer the detour: the output of an average of two tokens
then differs from the average of their outputs, which is why early layers should prune. It is never over 1, by the
triangle inequality. It is measured without the residual, whose linear part would hide the nonlinearity.

Axes: K steps, n pairs, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["functional_linearity", "interpolate"]


def interpolate(first: Tensor, second: Tensor, steps: int) -> Tensor:
    """Return the points p_0 = first ... p_K = second on the segment between tokens [n, C], as [n, K+1, C]."""
    share = torch.linspace(0, 1, steps + 1, dtype=first.dtype, device=first.device).view(1, -1, 1)
    return first.unsqueeze(1) * (1 - share) + second.unsqueeze(1) * share


def functional_linearity(path: Tensor) -> Tensor:
    """Return the linearity of each pair, [n], from the outputs along its segment [n, K+1, C]; NaN if they are equal.

    Source: arXiv 2312.01026, equation 8.
    """
    direct = (path[:, -1] - path[:, 0]).norm(dim=-1)
    length = path.diff(dim=1).norm(dim=-1).sum(dim=1)
    return torch.where(length > 0, direct / length, torch.nan).clamp(max=1.0)
