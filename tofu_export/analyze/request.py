"""Requests to analyze a model. Importing this module loads neither torch nor numpy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tofu_export.errors import OptionError
from tofu_export.options import DEFAULT_R, shared
from tofu_export.options.declaration import Section, opt, positional
from tofu_export.zoo.weights import WeightsSource, pretrained

__all__ = ["AnalyzeRequest"]


@dataclass(frozen=True)
class AnalyzeRequest:
    """Request to analyze a model.

    Attributes:
        model: timm name, alias, hub name or the demo model.
        images: folder of images; None for the demo model's own.
        weights: source of the weights.
        seed: seed of random weights.
        image_size: height and width in pixels; None for the model's own.
        limit: the most images to use, spread evenly over all.
        batch: batch size.
        r: pairs of an image in each layer, and tokens that each layer removes when token length is measured.
        steps: K of equation 8.

    Raises:
        OptionError: a value is out of range.
    """

    model: str = positional()
    images: Path | None = shared.images(", without labels", unless="demo_vit's own")
    weights: WeightsSource = pretrained()
    seed: int = shared.seed("random weights")
    image_size: tuple[int, int] | None = shared.image_size()
    limit: int = shared.limit(32)
    batch: int = shared.image_batch(16)
    r: int = opt(
        DEFAULT_R, "Pairs of an image in each layer: those that --r N would match.", Section.REDUCTION, metavar="N",
        minimum=1, everyday=True,
    )  # fmt: skip
    steps: int = opt(10, "Points between the two tokens of a pair.", Section.REDUCTION, metavar="K", minimum=2)

    def __post_init__(self) -> None:
        for name, least in (("limit", 1), ("batch", 1), ("r", 1), ("steps", 2)):
            if getattr(self, name) < least:
                raise OptionError(f"{name} is {getattr(self, name)}, expected at least {least}")
