"""Measure how many tokens are at work in each block of a model whose tokens halt."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tofu_export.errors import OptionError
from tofu_export.patch.apply import applied_plan
from tofu_export.patch.halting import Spending
from tofu_export.patch.matching import Matching, Scores
from tofu_export.patch.observe import observe
from tofu_export.planning.capacity import leaving_for

__all__ = ["measure_leaving", "working_tokens"]

_BATCH = 16


def measure_leaving(model: nn.Module, pixels: Tensor, share: float = 1.0) -> tuple[int, ...]:
    """Return how many tokens may leave before each block so that `share` of the images compute what they do without.

    Args:
        model: a model with a plan by which tokens halt and none leaves.
        pixels: [images, channels, height, width], normalised.
        share: over 0 and up to 1 (`planning.capacity.leaving_for`).

    Raises:
        OptionError: the model has no such plan, or there are no images.
    """
    plan = applied_plan(model)
    if plan is None or not plan.reduction.select.halts or plan.removes:
        raise OptionError("places are measured while no token leaves: apply Reduction(r=0, select='halting') first")
    working = working_tokens(model, pixels, plan.prefix_tokens, plan.layers[0].tokens_in)
    return leaving_for(working.tolist(), share, plan.layers[0].tokens_in, plan.prefix_tokens)


def working_tokens(model: nn.Module, pixels: Tensor, prefix: int, tokens: int) -> Tensor:
    """Return how many of the unprotected tokens are at work in each block, [images, depth] int64.

    Args:
        model: a model whose tokens halt.
        pixels: [images, channels, height, width], normalised.
        prefix: protected tokens.
        tokens: tokens that enter the first block, prefix included.
    """
    rows = []
    for batch in torch.split(pixels, _BATCH):
        count = _Count(prefix)
        with torch.inference_mode(), observe(count):
            model(batch)
        rows.append(torch.stack([torch.full((len(batch),), tokens - prefix), *count.left], dim=1))
    return torch.cat(rows) if rows else torch.zeros(0, 0, dtype=torch.int64)


class _Count:
    """Observer that counts the unprotected tokens at work after each block."""

    def __init__(self, prefix: int) -> None:
        self.prefix = prefix
        self.left: list[Tensor] = []

    def decide(self, _layer: int, _scores: Scores, proposed: Matching) -> Matching:
        return proposed

    def spend(self, _layer: int, proposed: Spending) -> Tensor:
        self.left.append((proposed.after[:, self.prefix :] > 0).sum(dim=(1, 2)))
        return proposed.after
