"""Plans by model name, without weights."""

from __future__ import annotations

from tofu_export.options import Reduction
from tofu_export.plan import ModelSpec, Plan, make_plan

__all__ = ["plan_model"]


def plan_model(
    name: str, reduction: Reduction, image_size: tuple[int, int] | None = None, num_classes: int | None = None
) -> tuple[ModelSpec, Plan]:
    """The plan of a model, without its weights.

    Raises:
        TofuError: the model is unknown or unsupported, or the options do not fit it.
    """
    from tofu_export.patch.describe import describe
    from tofu_export.zoo.create import create_meta
    from tofu_export.zoo.names import resolve

    spec = describe(create_meta(name, image_size, num_classes), resolve(name), image_size)
    return spec, make_plan(spec, reduction)
