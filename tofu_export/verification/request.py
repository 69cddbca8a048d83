"""Requests to verify a file. Importing this module loads neither torch nor numpy."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tofu_export.errors import OptionError
from tofu_export.options import OutputKind, Precision, shared
from tofu_export.options.declaration import Section, group, opt, positional
from tofu_export.zoo.weights import WeightsSource, weights_unless

if TYPE_CHECKING:
    from tofu_export.compare.outputs import Tolerance

__all__ = ["ToleranceChoice", "VerifyRequest"]


@dataclass(frozen=True)
class ToleranceChoice:
    """Choice of a tolerance: a named one, parts of which may be overridden.

    Attributes:
        name: name of the tolerance (`compare.TOLERANCES`); None for that of the file's precision.
        atol: largest absolute difference.
        rtol: largest difference as a share of max(1, largest value of the reference), added to `atol`.
        cosine: smallest cosine of two output vectors.

    Raises:
        OptionError: no tolerance has this name, or a number is out of range.
    """

    name: str | None = opt(
        None, "Tolerance of another precision.", Section.CHECK, flags=("--tolerance",), metavar="NAME",
        unless="the file's; of two files the wider one",
    )  # fmt: skip
    atol: float | None = opt(
        None, "Largest difference, in place of the tolerance's.", Section.CHECK, metavar="X", everyday=True
    )
    rtol: float | None = opt(
        None, "The same as a share of the largest value, or of 1; adds to --atol.", Section.CHECK, metavar="X",
        everyday=True,
    )  # fmt: skip
    cosine: float | None = opt(None, "Smallest cosine of two outputs.", Section.CHECK, metavar="X")

    def __post_init__(self) -> None:
        from tofu_export.compare.outputs import TOLERANCES  # loads numpy

        known = [tolerance.name for tolerance in TOLERANCES.values()]
        if self.name is not None and self.name not in known:
            raise OptionError(f"tolerance is {self.name!r}, expected one of {', '.join(known)}")
        for label, value in (("atol", self.atol), ("rtol", self.rtol), ("cosine", self.cosine)):
            most = 1.0 if label == "cosine" else sys.float_info.max
            if value is not None and not 0 <= value <= most:
                raise OptionError(f"{label} is {value}, expected a number of at least 0{', at most 1' * (most == 1)}")

    def of(self, *precisions: Precision) -> Tolerance:
        """Return the tolerance for files of these precisions: the widest of theirs, unless another is named."""
        from tofu_export.compare.outputs import TOLERANCES

        if self.name is None:
            found = max((TOLERANCES[precision] for precision in precisions), key=lambda entry: entry.max_error)
        else:
            found = next(entry for entry in TOLERANCES.values() if entry.name == self.name)
        given = [f"{key} {value:g}" for key, value in vars(self).items() if isinstance(value, (int, float))]
        if not given:
            return found
        if self.atol is not None or self.rtol is not None:
            found = replace(found, absolute=self.atol or 0.0, max_error=self.rtol or 0.0)
        if self.cosine is not None:
            found = replace(found, cosine_min=self.cosine)
        return replace(found, name=f"{found.name} with {', '.join(given)}", reason="as asked for")


@dataclass(frozen=True)
class VerifyRequest:
    """Request to verify a file.

    Attributes:
        path: the file.
        model: name of its model; None for the one that the file names.
        weights: source of the model's weights; None for the one that the file names.
        seed: seed of random weights, if `weights` asks for them, and of generated images.
        num_classes: width of the classifier; None for the one stated in the file, or the model's own.
        output_kind: what the file outputs; None for the kind that it states, or logits.
        reference: another file to compare with, in place of a model.
        images: folder of images; None for the demo set or seeded noise.
        batches: batch sizes to run; empty for what the file serves.
        precision: precision of the file; None for the one that it states, or the type of its weights.
        tolerance: the differences to allow.
        layers: also compare the output of each block.
        shapes: all sizes of inputs that leave more than the batch open, by name; for two files of any inputs.

    Raises:
        OptionError: a reference and a model are given.
    """

    path: Path = positional(metavar="FILE")
    model: str | None = shared.model_of_file()
    weights: WeightsSource | None = weights_unless("what the file says")
    seed: int = shared.seed("random weights and generated images")
    num_classes: int | None = shared.num_classes("what the file says, or the model's own")
    output_kind: OutputKind | None = shared.output_kind("what the file says, or logits")
    reference: Path | None = opt(
        None, "Compare with this file, and with no model.", Section.CHECK, metavar="OTHER.onnx", everyday=True
    )
    images: Path | None = shared.images(
        " to compare on", unless="demo_vit's own; for others generated ones", section=Section.CHECK
    )
    batches: tuple[int, ...] = shared.listed_batches(unless="some of those that the file serves", section=Section.CHECK)
    precision: Precision | None = shared.file_precision("what it says, or the type of its weights")
    tolerance: ToleranceChoice = group(ToleranceChoice)
    layers: bool = False
    shapes: Mapping[str, tuple[int, ...]] = shared.shapes()

    def __post_init__(self) -> None:
        modelled = (self.model, self.weights, self.num_classes, self.output_kind)
        if self.reference is not None and any(value is not None for value in modelled):
            raise OptionError(
                "a file is compared with another file or with a model: leave out --reference, or --model with its "
                "--weights, --num-classes and --output-kind"
            )
