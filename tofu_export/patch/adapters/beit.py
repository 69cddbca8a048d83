"""BEiT's block: both layer scales or none, and a relative position bias that its attention makes itself."""

from __future__ import annotations

from typing import Any

from timm.models.beit import Block
from torch import Tensor

from tofu_export.patch.adapters.adapter import BlockAdapter

__all__ = ["BEIT"]


def _attend(block: Any, x: Tensor, **kwargs: Tensor | None) -> Tensor:
    attended = block.attn(block.norm1(x), **kwargs)
    residual: Tensor = x + block.drop_path1(attended if block.gamma_1 is None else block.gamma_1 * attended)
    return residual


def _feed(block: Any, x: Tensor) -> Tensor:
    fed = block.mlp(block.norm2(x))
    residual: Tensor = x + block.drop_path2(fed if block.gamma_1 is None else block.gamma_2 * fed)
    return residual


BEIT = BlockAdapter(Block, _attend, _feed, ("norm2", "mlp", "drop_path2"))
