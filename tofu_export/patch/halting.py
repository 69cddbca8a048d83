"""Halting of tokens: the budget that each has left, what it hides from attention, and the output that sums over blocks.

Every token starts with a budget of 1. After each block it spends a score, a sigmoid of its first channel; once less
than `Halting.least` would be left, it halts: the rest is spent at once, and nothing attends to it any more. The last
block spends what is left. The output of a protected token is the sum of what it was after each block, weighted by what
it spent there; other tokens have none.

A state carries budgets as its `sizes`. Axes: B batch, N tokens, P prefix tokens, C channels.

Source: A-ViT, arXiv 2112.07658, section 3.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from tofu_export.options import Halting
from tofu_export.patch.importance import LEAST_IMPORTANCE
from tofu_export.patch.observe import current_observer
from tofu_export.patch.state import TokenState

__all__ = ["HaltingObserver", "Spending", "count_over", "hide_halted", "rest", "spend"]

_HIDDEN = -1000.0
"""Bias of attention to a halted token: exp(-1000) is 0 in every type, and float16 can hold it with any score added."""


class Spending(NamedTuple):
    """Budgets of the tokens of one block.

    Attributes:
        gate: the gate.
        before: [B, N, 1] float32, what was left before the block; 0 for tokens that had halted.
        channel: [B, N, 1] float32, the first channel of the tokens after the block, which the gate reads.
        score: [B, N, 1] float32, what the gate asks for.
        after: [B, N, 1] float32, what is left; 0 for tokens that have halted.
    """

    gate: Halting
    before: Tensor
    channel: Tensor
    score: Tensor
    after: Tensor


@runtime_checkable
class HaltingObserver(Protocol):
    """Observer (`observe`) that also sees budgets, once per block but the last and forward pass."""

    def spend(self, layer: int, proposed: Spending) -> Tensor:
        """Return the budgets to go on with, [B, N, 1], given those that the model proposes after block `layer`."""
        ...


def rest(state: TokenState) -> Tensor:
    """Return what the tokens of a state are ranked by, [B, N] float32: the rest of their budgets, floored over 0."""
    return _budget(state).squeeze(-1).clamp_min(LEAST_IMPORTANCE)


def count_over(before: TokenState, after: TokenState) -> TokenState:
    """Return the state after a reduction with its count of tokens that had to leave with a budget left."""
    dropped = (_budget(before) > 0).sum(dim=(1, 2)) - (_budget(after) > 0).sum(dim=(1, 2))
    return after._replace(output=before.output, over=dropped if before.over is None else before.over + dropped)


def hide_halted(state: TokenState) -> TokenState:
    """Return the state with a bias that hides halted tokens from attention; as it is before the first block."""
    if state.sizes is None:
        return state
    bias = torch.where(state.sizes > 0, 0.0, _HIDDEN).mT.unsqueeze(1)
    return state._replace(bias=bias.to(state.tokens.dtype))


def spend(state: TokenState, halting: Halting, prefix: int, layer: int, *, last: bool) -> TokenState:
    """Return the state that leaves a block: budgets after it, and its share of the output; the last has only that.

    Args:
        state: output of the block, with the budgets before it.
        halting: the gate.
        prefix: number of protected tokens P.
        layer: index of the block.
        last: it is the last block, after which the output takes the place of all tokens, [B, P, C].
    """
    before = _budget(state)
    after = None if last else _left(state.tokens, before, halting, layer)
    spent = before if after is None else before - after
    share = spent[:, :prefix] * state.tokens[:, :prefix].float()
    output = share if state.output is None else state.output + share
    if after is None:
        return state._replace(tokens=output.to(state.tokens.dtype), output=None)
    return state._replace(sizes=after, output=output)


def _budget(state: TokenState) -> Tensor:
    if state.sizes is not None:
        return state.sizes
    return torch.ones(*state.tokens.shape[:2], 1, dtype=torch.float32, device=state.tokens.device)


def _left(tokens: Tensor, before: Tensor, halting: Halting, layer: int) -> Tensor:
    """Return the budgets after a block, [B, N, 1] float32. In a traced graph this is one node, `tofu::Halt`."""
    if torch.onnx.is_in_onnx_export():
        return torch.onnx.ops.symbolic(
            "tofu::Halt",
            (tokens, before),
            {"scale": halting.scale, "center": halting.center, "least": halting.least, "layer": layer},
            dtype=torch.float32,
            shape=before.shape,
            version=1,
        )
    channel = tokens[..., :1].float()
    score = (channel * halting.scale - halting.center).sigmoid()
    left = before - score
    after = torch.where(left > halting.least, left, 0.0)
    observer: object = current_observer()  # of a kind that sees budgets, or one that does not
    if observer is not None and isinstance(observer, HaltingObserver):
        return observer.spend(layer, Spending(halting, before, channel, score, after))
    return after
