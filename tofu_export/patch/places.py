"""Select what belongs to positions for reduced tokens: rows of rotary embeddings, a relative position bias.

Upstream computes both for the whole grid; a reduced sequence takes the part of its tokens, by their positions.
Axes: B batch, N0 tokens that entered the first block, N tokens now, P prefix tokens, H heads, D channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tofu_export.errors import UnsupportedModelError

__all__ = ["all_positions", "place_bias", "place_rope"]


def all_positions(tokens: Tensor) -> Tensor:
    """Return the positions [B, N, 1] of a sequence [B, N, C] that no token has left yet."""
    batch, count, _ = tokens.shape
    return torch.arange(count, device=tokens.device).view(1, -1, 1).expand(batch, -1, -1)


def place_rope(rope: Tensor, positions: Tensor | None, prefix: int) -> Tensor:
    """Return the rotary embedding of the patches that are left.

    Args:
        rope: [N0-P, D] for all heads, or [H, N0-P, D] for each head.
        positions: [B, N, 1] int64; None: all tokens are left.
        prefix: tokens at the front that are not on the grid, and so have no embedding.

    Returns:
        [B, 1, N-P, D] or [B, H, N-P, D], as upstream shapes it after its own patch dropout; `rope` if all are left.
    """
    if positions is None:
        return rope
    rows = positions[:, prefix:, 0] - prefix if prefix else positions[:, :, 0]
    if rope.dim() == 2:
        return rope[rows].unsqueeze(1)
    if rope.dim() == 3:
        return rope[:, rows].transpose(0, 1)
    raise UnsupportedModelError(
        f"a rotary embedding of shape {list(rope.shape)} cannot be reduced, expected one row for each patch of the grid"
    )


def place_bias(bias: Tensor, positions: Tensor | None) -> Tensor:
    """Return the relative position bias between the tokens that are left.

    Args:
        bias: [H, N0, N0] or [1, H, N0, N0].
        positions: [B, N, 1] int64; None: all tokens are left.

    Returns:
        [B, H, N, N]; `bias` if all are left.
    """
    if positions is None:
        return bias
    whole = bias if bias.dim() == 3 else bias.squeeze(0)
    if whole.dim() != 3 or whole.shape[1] != whole.shape[2]:
        raise UnsupportedModelError(
            f"an attention mask of shape {list(bias.shape)} cannot be reduced, expected a relative position bias"
        )
    pairs = positions * whole.shape[2] + positions.mT
    return whole.flatten(1)[:, pairs].transpose(0, 1)
