"""Layers that predictors have in common: local and global features of each token, scored by an MLP.

Axes: B batch, N tokens, C channels of a token, or of one head of it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["embedding", "keep_scores", "scorer", "with_global"]


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


def with_global(embedded: Tensor) -> Tensor:
    """Replace the second half of the channels [B, N, C] by its mean over tokens, taken in float32."""
    local, rest = embedded.tensor_split((embedded.shape[-1] // 2,), dim=-1)
    mean = rest.float().mean(dim=1, keepdim=True).to(rest.dtype)
    return torch.cat([local, mean.expand_as(rest)], dim=-1)


def keep_scores(logits: Tensor) -> Tensor:
    """Return the probability [B, N] float32 to keep each token."""
    return logits.float().softmax(dim=-1)[..., 0]
