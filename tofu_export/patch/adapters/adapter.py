"""Definition of an adapter.

An adapter calls upstream's sub-modules in upstream's order; it re-types the two residual lines and nothing below
them. `apply` runs each adapter against the block's own forward before it trusts it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from tofu_export.patch.keys import CapturedAttention

__all__ = ["BlockAdapter"]


def _only_attention(block: Any) -> Sequence[nn.Module]:
    return (block.attn,)


@dataclass(frozen=True)
class BlockAdapter:
    """Two halves of a block kind, each `[B, N, C] -> [B, N, C]` with its residual; tokens leave between them.

    Attributes:
        kind: the upstream class, matched exactly: a subclass may have another forward.
        attend: the attention half; keyword arguments go to the attention.
        feed: the MLP half.
        feed_modules: names of the sub-modules that only the MLP half uses, for cost accounting.
        attentions: the attention modules of a block, identified by `keys.ATTENTION_CALLS`.
        capture: records the attention half, makes it follow the tokens, and returns the matching metric.
    """

    kind: type[nn.Module]
    attend: Callable[..., Tensor]
    feed: Callable[[Any, Tensor], Tensor]
    feed_modules: tuple[str, ...]
    attentions: Callable[[Any], Sequence[nn.Module]] = _only_attention
    capture: type[CapturedAttention] = CapturedAttention
