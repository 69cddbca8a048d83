"""Plan with places for the tokens that are at work in images, if a job asks for that."""

from __future__ import annotations

from dataclasses import replace

import torch

from tofu_export import patch
from tofu_export.errors import OptionError
from tofu_export.images.inputs import InputSet
from tofu_export.job.model import CAPACITY_IMAGES, JobModel
from tofu_export.options import Reduction
from tofu_export.patch.capacity import measure_leaving
from tofu_export.planning.plan import make_plan

__all__ = ["with_capacity"]


def with_capacity(found: JobModel, reduction: Reduction, images: InputSet) -> JobModel:
    """Return a model with its plan, in which tokens leave by a capacity that was measured on images, if asked for.

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
        raise OptionError(
            "capacity is measured on images, and generated ones say nothing: give real ones with --images"
        )
    model, spec = found.loaded.model, found.spec
    patch.apply(model, found.plan, name=spec.name)
    try:
        r = measure_leaving(model, torch.from_numpy(images.pixels[-CAPACITY_IMAGES:]), reduction.capacity)
    finally:
        patch.remove(model)
    return replace(found, plan=make_plan(spec, replace(found.plan.reduction, r=r)))
