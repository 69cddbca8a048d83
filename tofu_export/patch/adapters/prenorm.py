"""Adapter for timm's `Block`, which most vision transformers use: norm, attention or MLP, layer scale, residual."""

from __future__ import annotations

from typing import Any

from timm.models.vision_transformer import Block
from torch import Tensor

from tofu_export.patch.adapters.adapter import BlockAdapter

__all__ = ["FEED_MODULES", "PRENORM", "attend", "feed"]

FEED_MODULES = ("norm2", "mlp", "ls2", "drop_path2")


def attend(block: Any, x: Tensor, **kwargs: Tensor | None) -> Tensor:
    """Run the attention half."""
    attended: Tensor = x + block.drop_path1(block.ls1(block.attn(block.norm1(x), **kwargs)))
    return attended


def feed(block: Any, x: Tensor) -> Tensor:
    """Run the MLP half."""
    fed: Tensor = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
    return fed


PRENORM = BlockAdapter(Block, attend, feed, FEED_MODULES)
