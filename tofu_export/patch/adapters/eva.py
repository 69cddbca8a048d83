"""EVA's blocks, also those of DINOv3, PE and Sapiens: layer scales that may be missing one by one, rotary positions."""

from __future__ import annotations

from typing import Any

from timm.models.eva import EvaBlock, EvaBlockPostNorm
from torch import Tensor

from tofu_export.patch.adapters import postnorm
from tofu_export.patch.adapters.adapter import BlockAdapter

__all__ = ["EVA", "EVA_POSTNORM"]


def _attend(block: Any, x: Tensor, **kwargs: Tensor | None) -> Tensor:
    attended = block.attn(block.norm1(x), **kwargs)
    residual: Tensor = x + block.drop_path1(attended if block.gamma_1 is None else block.gamma_1 * attended)
    return residual


def _feed(block: Any, x: Tensor) -> Tensor:
    fed = block.mlp(block.norm2(x))
    residual: Tensor = x + block.drop_path2(fed if block.gamma_2 is None else block.gamma_2 * fed)
    return residual


EVA = BlockAdapter(EvaBlock, _attend, _feed, ("norm2", "mlp", "drop_path2"))
EVA_POSTNORM = BlockAdapter(EvaBlockPostNorm, postnorm.attend, postnorm.feed, postnorm.FEED_MODULES)
