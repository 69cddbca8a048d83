"""Halting of tokens: the budget that each has left, what it hides from attention, and the output that sums over layers.

Every token starts with a budget of 1. After each block it spends a score, a sigmoid of its first channel; once less
than `Halting.least` would be left, it halts: the rest is spent at once, and nothing attends to it any more. The last
block spends what is left. A protected token's output is the sum of what it was after each block, weighted by what it
spent there.

Axes: B batch, N tokens, P prefix tokens, C channels.

Source: A-ViT, arXiv 2112.07658, section 3.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from tofu_export.options import Halting
from tofu_export.patch.observe import current_observer

__all__ = ["HIDDEN", "HaltingObserver", "Spending", "hiding_bias", "over_capacity", "spend", "summed"]

HIDDEN = -1000.0
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


def spend(tokens: Tensor, budget: Tensor, halting: Halting, layer: int) -> Tensor:
    """Return the budgets after a block that is not the last, [B, N, 1] float32; 0 for tokens that have halted.

    In a traced graph this is one node, `tofu::Halt`.

    Args:
        tokens: [B, N, C], output of the block.
        budget: [B, N, 1] float32, before the block.
        halting: the gate.
        layer: index of the block.
    """
    if torch.onnx.is_in_onnx_export():
        attributes = {"scale": halting.scale, "center": halting.center, "least": halting.least, "layer": layer}
        return torch.onnx.ops.symbolic(
            "tofu::Halt", (tokens, budget), attributes, dtype=torch.float32, shape=budget.shape, version=1
        )
    channel = tokens[..., :1].float()
    score = (channel * halting.scale - halting.center).sigmoid()
    left = budget - score
    after = torch.where(left > halting.least, left, 0.0)
    observer = current_observer()
    if isinstance(observer, HaltingObserver):
        return observer.spend(layer, Spending(halting, budget, channel, score, after))
    return after


def hiding_bias(budget: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the bias of the attention scores, [B, 1, 1, N] of type `dtype`, that hides halted tokens."""
    return torch.where(budget > 0, 0.0, HIDDEN).mT.unsqueeze(1).to(dtype)


def summed(total: Tensor | None, tokens: Tensor, spent: Tensor, prefix: int) -> Tensor:
    """Add the output of a block to the weighted sum for each protected token, [B, P, C] float32.

    Args:
        total: the sum so far; None before the first block.
        tokens: [B, N, C], output of the block.
        spent: [B, N, 1] float32, what the tokens spent on it.
        prefix: number of protected tokens P.
    """
    share = spent[:, :prefix] * tokens[:, :prefix].float()
    return share if total is None else total + share


def over_capacity(before: Tensor, after: Tensor) -> Tensor:
    """Return how many tokens with a budget left a reduction dropped, [B] int64, from budgets before and after it."""
    return (before > 0).sum(dim=(1, 2)) - (after > 0).sum(dim=(1, 2))
