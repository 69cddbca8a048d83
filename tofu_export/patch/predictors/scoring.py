"""Layers that predictors have in common: local and global features of each token, scored by an MLP.

Axes: B batch, N tokens, C channels of a token, or of one head of it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["embedding", "scorer", "with_global"]


def embedding(width: int) -> nn.Sequential:
    """Return the layers that embed tokens [B, N, C]."""
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())


def scorer(width: int) -> nn.Sequential:
    """Return the layers that turn features [B, N, C] into logits [B, N, 2], to keep and to drop."""
    return nn.Sequential(
        nn.Linear(width, width // 2),
        nn.GELU(),
        nn.Linear(width // 2, width // 4),
        nn.GELU(),
        nn.Linear(width // 4, 2),
    )


def with_global(embedded: Tensor, present: Tensor | None) -> Tensor:
    """Replace the second half of the channels [B, N, C] by its mean over tokens, taken in float32.

    Args:
        embedded: tokens.
        present: [B, N, 1], 1 for each token that counts, 0 for one that training masks; None: all count.
    """
    local, rest = embedded.tensor_split((embedded.shape[-1] // 2,), dim=-1)
    wide = rest.float()
    if present is None:
        mean = wide.mean(dim=1, keepdim=True)
    else:
        mean = (wide * present).sum(dim=1, keepdim=True) / present.sum(dim=1, keepdim=True)
    return torch.cat([local, mean.to(rest.dtype).expand_as(rest)], dim=-1)
