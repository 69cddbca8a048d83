"""Measure on images how many tokens are at work in each block, and plan with places for them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from tofu_export import patch
from tofu_export.errors import OptionError
from tofu_export.images.inputs import InputSet
from tofu_export.job.model import CAPACITY_IMAGES, JobModel
from tofu_export.options import Reduction
from tofu_export.patch.halting import Spending
from tofu_export.patch.matching import Matching, Scores
from tofu_export.planning.capacity import leaving_for
from tofu_export.planning.plan import make_plan

__all__ = ["with_capacity", "working_tokens"]

_BATCH = 16


def with_capacity(found: JobModel, reduction: Reduction, images: InputSet) -> JobModel:
    """Return a model with its plan, of which a capacity has been measured on images if it is asked for.

    Args:
        found: the unpatched model, with a plan in which no token leaves.
        reduction: what was asked for.
        images: images, of which the last ones are measured: verification takes the first.

    Raises:
        OptionError: the images are generated ones.
    """
    if reduction.capacity is None:
        return found
    if not images.real:
        raise OptionError("capacity is measured on images, and generated ones say nothing: give real ones with --images")
    working = working_tokens(found.loaded.model, found, torch.from_numpy(images.pixels[-CAPACITY_IMAGES:]))
    spec = found.spec
    r = leaving_for(working.tolist(), reduction.capacity, spec.tokens, spec.prefix_tokens)
    return replace(found, plan=make_plan(spec, replace(reduction, capacity=None, r=r)))


def working_tokens(model: nn.Module, found: JobModel, pixels: Tensor) -> Tensor:
    """Return how many tokens of each image are at work in each block, without the prefix, [images, depth] int64.

    The model is unchanged afterwards.
    """
    patch.apply(model, found.plan, name=found.spec.name)
    try:
        rows = []
        for batch in pixels.split(_BATCH):
            count = _Count(found.spec.prefix_tokens)
            with torch.inference_mode(), patch.observe(count):
                model(batch)
            patches = torch.full((len(batch),), found.spec.tokens - found.spec.prefix_tokens)
            rows.append(torch.stack([patches, *count.left], dim=1))
        return torch.cat(rows)
    finally:
        patch.remove(model)


class _Count:
    """Observer that counts the tokens at work after each block."""

    def __init__(self, prefix: int) -> None:
        self.prefix = prefix
        self.left: list[Tensor] = []

    def decide(self, _layer: int, _scores: Scores, proposed: Matching) -> Matching:
        return proposed

    def spend(self, _layer: int, proposed: Spending) -> Tensor:
        self.left.append((proposed.after[:, self.prefix :] > 0).sum(dim=(1, 2)))
        return proposed.after
