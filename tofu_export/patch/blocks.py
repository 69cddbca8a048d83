"""How each supported block kind is cut in two halves, so that tokens can leave in between.

An adapter calls upstream's sub-modules in upstream's order; it re-types the two residual lines and nothing below
them. `apply` runs each adapter against the block's own forward before it trusts it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from timm.models.vision_transformer import Block
from torch import Tensor, nn

__all__ = ["ADAPTERS", "BlockAdapter", "adapter_for"]


@dataclass(frozen=True)
class BlockAdapter:
    """The two halves of a block kind, each `[B, N, C] -> [B, N, C]` with its residual.

    Attributes:
        kind: the upstream class, matched exactly: a subclass may have another forward.
        attend: the attention half; keyword arguments go to the attention.
        feed: the MLP half.
        feed_modules: names of the sub-modules that only the MLP half uses, for cost accounting.
    """

    kind: type[nn.Module]
    attend: Callable[..., Tensor]
    feed: Callable[[Any, Tensor], Tensor]
    feed_modules: tuple[str, ...]


def _attend_prenorm(block: Any, x: Tensor, **kwargs: Tensor | None) -> Tensor:
    attended: Tensor = x + block.drop_path1(block.ls1(block.attn(block.norm1(x), **kwargs)))
    return attended


def _feed_prenorm(block: Any, x: Tensor) -> Tensor:
    fed: Tensor = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
    return fed


ADAPTERS: tuple[BlockAdapter, ...] = (
    BlockAdapter(Block, _attend_prenorm, _feed_prenorm, ("norm2", "mlp", "ls2", "drop_path2")),
)


def adapter_for(block: nn.Module) -> BlockAdapter | None:
    """The adapter of a block's exact class, None where there is none."""
    return next((adapter for adapter in ADAPTERS if type(block) is adapter.kind), None)
