"""Adapter for `ParallelScalingBlock` and its differential variant: attention and MLP from one projection of one input.

Nothing lies between the halves, so the reduction follows the whole block: its MLP sees all tokens that came in.

Source: arXiv 2302.05442.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.models.vision_transformer import DiffParallelScalingBlock, ParallelScalingBlock
from torch import Tensor, nn

from tofu_export.patch.adapters.adapter import BlockAdapter

__all__ = ["DIFF_SCALING", "SCALING"]


def _whole(kind: type[nn.Module]) -> BlockAdapter:
    def attend(block: Any, x: Tensor) -> Tensor:
        attended: Tensor = kind.forward(block, x)  # upstream's own, also where the block is patched
        return attended

    return BlockAdapter(kind, attend, _nothing, (), attentions=_itself)


def _nothing(_block: Any, x: Tensor) -> Tensor:
    return x


def _itself(block: Any) -> Sequence[nn.Module]:
    return (block,)


SCALING = _whole(ParallelScalingBlock)
DIFF_SCALING = _whole(DiffParallelScalingBlock)
