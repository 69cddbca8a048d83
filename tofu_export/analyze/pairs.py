"""Run the full model block by block: inputs, the pairs that matching would make, and the halves of a block.

Blocks run in float64 on copies: with a small layer scale a branch is tiny beside the token that it is added to.
Axes: B batch, N tokens, P prefix tokens, R pairs of an image, C channels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tofu_export.options import Roles, Selection
from tofu_export.patch.blocks import BlockAdapter, adapter_for
from tofu_export.patch.matching import Candidates, Matching, gather_rows, match, similarity
from tofu_export.patch.state import TokenState
from tofu_export.patch.support import block_prefix, check_supported
from tofu_export.planning.plan import removable

__all__ = ["Halves", "LayerView", "views"]


@dataclass(frozen=True)
class LayerView:
    """Block of the full model on a batch, and the pairs that its reduction would match.

    Attributes:
        layer: index of the block.
        tokens: [B, N, C] that enter the block, float64.
        attended: [B, N, C] between its halves, where the reduction is, float64.
        matching: the decisions; `matched` [B, R] and `target` [B, R] are the pairs.
        similarity: [B, R], cosine of the keys of each pair.
        roles: which tokens are sources, and which destinations.
        halves: the block's two halves.
    """

    layer: int
    tokens: Tensor
    attended: Tensor
    matching: Matching
    similarity: Tensor
    roles: Roles
    halves: Halves

    @property
    def source_rows(self) -> Tensor:
        """Positions of the matched sources in the sequence, [B, R]."""
        return torch.tensor(self.roles.sources)[self.matching.matched]

    @property
    def target_rows(self) -> Tensor:
        """Positions of their destinations in the sequence, [B, R]."""
        return torch.tensor(self.roles.destinations)[self.matching.target]

    def pairs_of(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sources and their destinations in a sequence [B, N, C], each [B * R, C]."""
        return (
            gather_rows(tokens, self.source_rows).flatten(0, 1),
            gather_rows(tokens, self.target_rows).flatten(0, 1),
        )


@dataclass(frozen=True)
class Halves:
    """Float64 copy of a block, split by its adapter.

    Attributes:
        attend: the attention half with its residual, [B, N, C] -> [B, N, C].
        feed: the MLP half with its residual, token by token; None if the block has no such half.
    """

    attend: Callable[[Tensor], Tensor]
    feed: Callable[[Tensor], Tensor] | None

    @classmethod
    def of(cls, block: nn.Module, adapter: BlockAdapter, kwargs: dict[str, Any]) -> Halves:
        """Copy the halves of a block, called with `kwargs` as in upstream's model."""
        wide = copy.deepcopy(block).double()
        given = {name: value.double() if _is_floating(value) else value for name, value in kwargs.items()}

        def attend(tokens: Tensor) -> Tensor:
            with adapter.capture(TokenState(tokens)):
                return adapter.attend(wide, tokens, **given)

        def feed(tokens: Tensor) -> Tensor:
            return adapter.feed(wide, tokens)

        return cls(attend, feed if adapter.feed_modules else None)


@torch.no_grad()
def views(model: nn.Module, pixels: Tensor, r: int, name: str = "the model") -> Iterator[LayerView]:
    """Yield each block of the untouched model on a batch [B, channels, H, W], with at most `r` pairs of each image.

    Raises:
        UnsupportedModelError: the model cannot be reduced.
    """
    check_supported(model, name)
    architecture: Any = model
    prefix = block_prefix(model)
    for part in model.modules():  # its keys are read off the fused call
        if isinstance(getattr(part, "fused_attn", None), bool):
            part.fused_attn = True  # type: ignore[assignment]  # nn.Module types its attributes as tensors
    entered = _inputs_of(architecture, pixels)
    for layer, (block, (tokens, kwargs)) in enumerate(zip(architecture.blocks, entered, strict=True)):
        adapter = adapter_for(block)
        assert adapter is not None  # check_supported
        attentions = adapter.attentions(block)
        with adapter.capture(TokenState(tokens)) as capture:
            adapter.attend(block, tokens, **kwargs)
        capture.check(attentions, layer)
        removed = min(r, removable(tokens.shape[1], prefix))
        roles = Selection.BIPARTITE.roles(tokens.shape[1], prefix, removed, layer)
        scores = similarity(Candidates(capture.metric(attentions), roles, layer, len(architecture.blocks)))
        matching = match(scores, removed)
        halves = Halves.of(block, adapter, kwargs)
        wide = tokens.double()
        assert scores.pairs is not None  # of two sets
        best = scores.pairs.amax(dim=2).gather(1, matching.matched)
        yield LayerView(layer, wide, halves.attend(wide), matching, best, roles, halves)


def _inputs_of(architecture: Any, pixels: Tensor) -> list[tuple[Tensor, dict[str, Any]]]:
    """Return the tokens and keyword arguments that enter each block."""
    entered: list[tuple[Tensor, dict[str, Any]]] = []

    def note(_block: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        entered.append((args[0], {key: value for key, value in kwargs.items() if value is not None}))

    handles = [block.register_forward_pre_hook(note, with_kwargs=True) for block in architecture.blocks]
    try:
        architecture.forward_features(pixels)
    finally:
        for handle in handles:
            handle.remove()
    return entered


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
