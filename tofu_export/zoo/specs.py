"""Specs and plans by model name, without weights."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tofu_export.options import KeySource, Reduction
from tofu_export.planning.plan import ModelSpec, Plan, make_plan
from tofu_export.zoo import catalog
from tofu_export.zoo.names import ALIASES

if TYPE_CHECKING:
    from tofu_export.zoo.create import LoadedModel

__all__ = ["check_structure", "plan_model", "spec_as_loaded", "spec_of"]


def spec_of(name: str, image_size: tuple[int, int] | None = None, num_classes: int | None = None) -> ModelSpec:
    """Return the spec of a model, measured on the meta device.

    Raises:
        TofuError: the model is unknown or unsupported, or the size does not fit it.
    """
    from tofu_export.patch.describe import describe  # imports torch
    from tofu_export.zoo.create import create_meta
    from tofu_export.zoo.names import resolve

    return describe(create_meta(name, image_size, num_classes), resolve(name), image_size)


def spec_as_loaded(spec: ModelSpec, loaded: LoadedModel) -> ModelSpec:
    """Return the spec of a model with its weights and their gate, measured again if they changed the model.

    Args:
        spec: spec of the model as timm builds it.
        loaded: the same model, loaded.
    """
    from tofu_export.patch.describe import describe

    if loaded.changed:
        spec = describe(loaded.meta(), loaded.resolved, loaded.asked_image_size)
    return replace(spec, gate=loaded.gate)


def plan_model(
    name: str, reduction: Reduction, image_size: tuple[int, int] | None = None, num_classes: int | None = None
) -> tuple[ModelSpec, Plan]:
    """Plan the reduction of a model.

    At once if the catalogue has the model and no option depends on more than that; else torch is imported.

    Raises:
        TofuError: the model is unknown or unsupported, or the options do not fit it.
    """
    known = catalog.find(ALIASES.get(name, name)) if image_size is None and num_classes is None else None
    spec = known if known is not None else spec_of(name, image_size, num_classes)
    plan = make_plan(spec, reduction)
    check_structure(name, plan, image_size, num_classes)
    return spec, plan


def check_structure(
    name: str, plan: Plan, image_size: tuple[int, int] | None = None, num_classes: int | None = None
) -> None:
    """Check that a model has what a plan needs and a spec does not tell: rotary embedding, class token, pooling.

    Raises:
        TofuError: it does not have it.
    """
    reduction = plan.reduction
    if reduction.keys is KeySource.PRE_ROPE or reduction.select.needs_class_token or reduction.select.halts:
        from tofu_export.patch import check_plan  # imports torch
        from tofu_export.zoo.create import create_meta

        check_plan(create_meta(name, image_size, num_classes), plan, name)
