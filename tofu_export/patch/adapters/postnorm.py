"""Adapter for `ResPostBlock`: attention or MLP, then the norm, inside the residual."""

from __future__ import annotations

from typing import Any

from timm.models.vision_transformer import ResPostBlock
from torch import Tensor

from tofu_export.patch.adapters.adapter import BlockAdapter

__all__ = ["FEED_MODULES", "POSTNORM", "attend", "feed"]

FEED_MODULES = ("norm2", "mlp", "drop_path2")


def attend(block: Any, x: Tensor, **kwargs: Tensor | None) -> Tensor:
    """Run the attention half."""
    attended: Tensor = x + block.drop_path1(block.norm1(block.attn(x, **kwargs)))
    return attended


def feed(block: Any, x: Tensor) -> Tensor:
    """Run the MLP half."""
    fed: Tensor = x + block.drop_path2(block.norm2(block.mlp(x)))
    return fed


POSTNORM = BlockAdapter(ResPostBlock, attend, feed, FEED_MODULES)
