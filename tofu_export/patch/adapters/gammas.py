"""Halves of a pre-norm block whose optional layer scales are the bare parameters `gamma_1` and `gamma_2`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

__all__ = ["FEED_MODULES", "attend", "feed"]

FEED_MODULES = ("norm2", "mlp", "drop_path2")


def attend(block: Any, x: Tensor, **kwargs: Tensor | None) -> Tensor:
    """Run the attention half, [B, N, C] -> [B, N, C]."""
    attended = block.attn(block.norm1(x), **kwargs)
    residual: Tensor = x + block.drop_path1(attended if block.gamma_1 is None else block.gamma_1 * attended)
    return residual


def feed(block: Any, x: Tensor) -> Tensor:
    """Run the MLP half, [B, N, C] -> [B, N, C]."""
    fed = block.mlp(block.norm2(x))
    residual: Tensor = x + block.drop_path2(fed if block.gamma_2 is None else block.gamma_2 * fed)
    return residual
