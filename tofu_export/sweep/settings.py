"""Settings that all cells of a sweep share, and the conditions that a finished cell depends on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tofu_export.errors import OptionError
from tofu_export.evaluate.classes import ClassOrder, read_class_map
from tofu_export.options import Target, shared
from tofu_export.system import environment
from tofu_export.system.files import sha256_of
from tofu_export.system.typed_json import JsonObject
from tofu_export.zoo.weights import WeightsSource, pretrained

__all__ = ["Settings"]

_VERSIONS = ("tofu_export", "torch", "timm", "onnx", "onnxscript", "onnxruntime", "numpy")
"""Packages whose version can change the result of a cell."""


@dataclass(frozen=True)
class Settings:
    """Settings for making and measuring cells.

    Attributes:
        weights: source of the weights.
        image_size: height and width in pixels; None for each model's own.
        target: runtime that the files are written for.
        images: folder of images; None for the demo model's, or generated ones.
        labelled: folders in it are classes.
        class_map: file with one class name per line.
        class_order: order of class folders, if it matters.
        limit: the most images to decide on; None for all.
        image_cache: folder in which the decoded images are kept for all cells; None to decode them for each.
        seed: seed of random weights and generated images.
        verify: compare each file with the eager model before its numbers count.
        bench: time the files.
        seconds: shortest measured time of a file.
        threads: threads of onnxruntime while timing; None for its default.

    Raises:
        OptionError: a number is out of range.
    """

    weights: WeightsSource = pretrained()
    image_size: tuple[int, int] | None = None
    target: Target = shared.target()
    images: Path | None = shared.images(
        ": one folder per class, as in ImageNet, or images alone", unless="demo_vit's own; for others generated ones"
    )
    labelled: bool = shared.labelled()
    class_map: Path | None = shared.class_map()
    class_order: ClassOrder | None = shared.class_order()
    limit: int | None = shared.limit()
    image_cache: Path | None = None
    seed: int = shared.seed("random weights and generated images")
    verify: bool = shared.verify("; one that computes something else gets no row")
    bench: bool = shared.bench(True, "Time the files in onnxruntime.")
    seconds: float = shared.seconds()
    threads: int | None = shared.threads()

    def __post_init__(self) -> None:
        for name in ("limit", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"{name} is {value}, expected a whole number >= 1")
        if self.images is None and (self.class_map or self.class_order):
            raise OptionError("--class-map and --class-order belong to a folder: give one with --images")
        if not 0 <= self.seconds < float("inf"):
            raise OptionError(f"seconds is {self.seconds}, expected a number >= 0")

    def evaluation(self) -> JsonObject:
        """Return what a cell's decisions depend on besides the cell, as JSON values: a change makes another cell.

        Raises:
            OptionError: the weights file is missing, or the folder has no image.
        """
        self.weights.check()
        weights = str(self.weights) if self.weights.path is None else _fingerprint(self.weights, self.weights.path)
        return {
            "versions": _versions(),
            "weights": weights,
            "image_size": None if self.image_size is None else list(self.image_size),
            "target": self.target.value,
            "images": None if self.images is None else _digest(self.images),
            "labelled": self.labelled,
            "class_map": None if self.class_map is None else read_class_map(self.class_map),
            "class_order": None if self.class_order is None else self.class_order.value,
            "limit": self.limit,
            "seed": self.seed,
            "verify": self.verify,
        }

    def timing(self) -> JsonObject:
        """Return what a cell's time depends on besides the cell: everything that makes its file, and the machine."""
        made = self.evaluation()
        return {
            **{name: made[name] for name in ("versions", "weights", "image_size", "target", "seed")},
            "cpu": environment.cpu_name(),
            "logical_cores": environment.logical_cores(),
            "seconds": self.seconds,
            "threads": self.threads,
        }


def _versions() -> Mapping[str, str | None]:
    versions = environment.collect().versions
    return {name: versions[name] for name in _VERSIONS}


def _digest(folder: Path) -> str:
    """Return a hash of names and sizes of the images of a folder, to detect changes."""
    from tofu_export.images.inputs import image_files  # loads numpy

    digest = hashlib.sha256()
    files = image_files(folder)
    if not files:
        raise OptionError(f"images {folder}: no image in it, expected .jpg, .png or other image files")
    for file in files:
        digest.update(f"{file.relative_to(folder).as_posix()}\0{file.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]


def _fingerprint(weights: WeightsSource, path: Path) -> str:
    chosen = "" if weights.key is None else f" {weights.key}"
    return f"sha256:{sha256_of(path)}{chosen}"
