"""Requests to evaluate a model. Importing this module loads neither torch nor numpy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tofu_export.errors import OptionError
from tofu_export.evaluate.classes import ClassOrder
from tofu_export.options import PLAN_SUFFIXES, Reduction, shared
from tofu_export.options.declaration import Section, group, opt, positional
from tofu_export.zoo.weights import WeightsSource, weights_unless

__all__ = ["TORCH", "EvalRequest", "is_file"]

TORCH = "torch"
"""Backend of eager models."""


def is_file(name: str) -> bool:
    """True if `name` means a file rather than a model."""
    return Path(name).suffix in (".onnx", *PLAN_SUFFIXES)


@dataclass(frozen=True)
class EvalRequest:
    """Request to evaluate a model or a file.

    Attributes:
        subject: name of a model, which runs in eager PyTorch, or the path of an ONNX file or a TensorRT engine.
        images: folder of images; None for the demo model's own.
        reduction: reduction of a model; a file has its own.
        model: the model of a file that does not name it.
        weights: weights of the model; None for pretrained ones, or those that a file was made with.
        seed: seed of random weights.
        image_size: height and width of a model's input; None for its own.
        num_classes: width of a model's classifier; None for its own.
        backend: backend that runs a file; None: see `subjects.file_subject`.
        threads: threads of onnxruntime.
        batch: batch size, unless the file is fixed to another one.
        limit: number of images to use, spread evenly over all; None for all.
        labelled: folders are classes.
        class_map: file with one class name per line.
        class_order: order of class folders, if it matters.
        ground_truth: file with the class of each image of a flat folder.
        skip_unreadable: leave out images that cannot be read.
        real_labels: JSON of ImageNet's reassessed labels, or `timm` for those included in timm.
        agreement: also run the full model and compare; None: if possible.

    Raises:
        OptionError: a value is out of range, or two of them contradict each other.
    """

    subject: str = positional(metavar="MODEL|FILE")
    images: Path | None = shared.images(
        ": one folder per class, as in ImageNet, or images alone", unless="demo_vit's own"
    )
    reduction: Reduction | None = group(None)
    model: str | None = shared.model_of_file()
    weights: WeightsSource | None = weights_unless("pretrained, or those that FILE names")
    seed: int = shared.seed("random weights and generated images")
    image_size: tuple[int, int] | None = shared.image_size()
    num_classes: int | None = shared.num_classes()
    backend: str | None = opt(
        None, "What runs FILE: ort-cpu, ort-cuda or ort-tensorrt; trt or trt-rtx for an engine.", Section.CHECK,
        metavar="NAME", unless="ort-cpu, or the TensorRT that the engine is for", everyday=True,
    )  # fmt: skip
    threads: int | None = shared.threads(Section.CHECK)
    batch: int = shared.image_batch(32)
    limit: int | None = shared.limit()
    labelled: bool = shared.labelled()
    class_map: Path | None = shared.class_map()
    class_order: ClassOrder | None = shared.class_order()
    ground_truth: Path | None = opt(
        None, "Class of each image of a flat folder: lines `image class`, a number from 0 or a name.", Section.IMAGES,
        metavar="FILE",
    )  # fmt: skip
    skip_unreadable: bool = opt(
        False, "Leave out images that cannot be read, and name them.", Section.IMAGES, flags=("--skip-unreadable",)
    )
    real_labels: str | None = opt(
        None, "Hold ImageNet's validation images to their reassessed labels: timm's, or a JSON file.", Section.IMAGES,
        metavar="timm|FILE",
    )  # fmt: skip
    agreement: bool | None = opt(
        None, "Also run the full model and compare.", Section.CHECK, unless="if it can be had", everyday=True
    )

    def __post_init__(self) -> None:
        if self.batch < 1 or (self.limit is not None and self.limit < 1):
            raise OptionError(f"batch is {self.batch} and limit {self.limit}, expected at least 1")
        if is_file(self.subject):
            if self.reduction is not None:
                raise OptionError(
                    f"{self.subject} is a file and has its reduction in it: give --r and the like with a model's name"
                )
            if not Path(self.subject).is_file():
                raise OptionError(f"{self.subject}: no such file")
        elif self.backend not in (None, TORCH):
            raise OptionError(f"{self.subject} is a model, which runs in {TORCH}: give {self.backend} a file")
        elif self.model is not None:
            raise OptionError(f"{self.subject} is a model itself: --model is for files that do not name theirs")
        if self.images is None and (self.class_map or self.class_order or self.real_labels):
            raise OptionError("--class-map, --class-order and --real-labels belong to a folder: give one with --images")
        if not self.labelled and (self.class_map or self.class_order or self.ground_truth):
            raise OptionError(
                "--no-labels leaves classes aside: leave out --class-map, --class-order and --ground-truth"
            )
        if self.images is None and self.ground_truth:
            raise OptionError("--ground-truth belongs to a folder: give one with --images")
