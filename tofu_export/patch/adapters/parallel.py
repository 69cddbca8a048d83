"""Adapter for `ParallelThingsBlock`: several attentions in parallel, then several MLPs in parallel.

Source: arXiv 2203.09795.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.models.vision_transformer import ParallelThingsBlock
from torch import Tensor, nn

from tofu_export.patch.adapters.adapter import BlockAdapter

__all__ = ["PARALLEL"]


def _attend(block: Any, x: Tensor) -> Tensor:
    return x + torch.stack([attention(x) for attention in block.attns]).sum(dim=0)


def _feed(block: Any, x: Tensor) -> Tensor:
    return x + torch.stack([mlp(x) for mlp in block.ffns]).sum(dim=0)


def _attentions(block: Any) -> Sequence[nn.Module]:
    return [branch.attn for branch in block.attns]


PARALLEL = BlockAdapter(ParallelThingsBlock, _attend, _feed, ("ffns",), attentions=_attentions)
