"""One cell: make its file as the main job does, run it in onnxruntime, and see what it decides."""

from __future__ import annotations

import gc
import tempfile
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tofu_export import patch
from tofu_export.errors import VerificationError
from tofu_export.export import INPUT_NAME, InputShape, release, save, trace
from tofu_export.graph_patterns.lowering import MACS, lower
from tofu_export.options import BatchRange, OutputKind, Precision
from tofu_export.ort import open_session
from tofu_export.plan import ModelSpec, make_plan
from tofu_export.quantize import CALIBRATION_IMAGES, quantize
from tofu_export.specs import spec_of
from tofu_export.sweep.grid import Cell
from tofu_export.sweep.images import Images, images_for
from tofu_export.sweep.settings import Settings
from tofu_export.zoo.create import LoadedModel, create_model

__all__ = ["Evaluation", "evaluate", "feeds_for", "write_file"]

_BATCH = 32
"""Images at a time; how many does not change what is decided."""


@dataclass(frozen=True)
class Evaluation:
    """What a cell's file decides on all images.

    Attributes:
        kind: `logits` or `features`.
        outputs: int32 [n], the class of each image, or float32 [n, C], its features.
        top1: share of the images whose class is right; None without labels.
        source: where the images come from.
        real: False for generated images.
        file_gmacs: what the file computes for one image, in 10^9 multiply-accumulates.
        file_bytes: its size.
        seconds: wall time of making and running it.
    """

    kind: str
    outputs: NDArray[Any]
    top1: float | None
    source: str
    real: bool
    file_gmacs: float | None
    file_bytes: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """All but the outputs, as JSON values."""
        values = {name: value for name, value in vars(self).items() if name != "outputs"}
        return {**values, "images": len(self.outputs), "seconds": round(self.seconds, 2)}


def evaluate(cell: Cell, settings: Settings, threads: int | None = None) -> Evaluation:
    """Make the file of a cell in a temporary folder and run it on all images.

    Args:
        cell: the cell.
        settings: weights, images and target.
        threads: threads of onnxruntime inside an operator; None for its default.

    Raises:
        TofuError: the model, its weights or the images cannot be had, or the file cannot be made or run.
        VerificationError: an output is not a number.
    """
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="tofu-export-sweep-") as folder:
        path = Path(folder) / "cell.onnx"
        gmacs = write_file(cell, settings, path)
        size = sum(file.stat().st_size for file in path.parent.iterdir())
        kind, images = _output(cell, settings), _images(cell.model, settings)
        outputs = _run(path, kind, images, threads)
    right = None if images.labels is None else float((outputs == images.labels).mean())
    return Evaluation(kind.value, outputs, right, images.source, images.real, gmacs, size, time.perf_counter() - start)


def write_file(cell: Cell, settings: Settings, path: Path) -> float | None:
    """Write the file of a cell and return its GMACs for one image.

    Raises:
        TofuError: as `evaluate`.
    """
    spec, loaded = _spec(cell.model, settings.image_size), _loaded(cell.model, settings)
    output = _output(cell, settings)
    patch.apply(loaded.model, make_plan(spec, cell.reduction), name=spec.name)
    try:
        shape = InputShape(spec.in_chans, *spec.image_size)
        graph = trace(loaded.model, shape, output=output, precision=cell.precision.traced, batch=BatchRange())
    finally:
        patch.remove(loaded.model)
    graph = lower(graph, settings.target, cell.precision.traced)
    macs: int | None = graph.meta[MACS]
    gmacs = None if macs is None else round(macs / 1e9, 4)
    calibrated = cell.precision is Precision.INT8
    draft = path.with_name(f"draft-{path.name}") if calibrated else path
    save(graph, draft, {"gmacs": gmacs})
    release(graph)
    del graph
    gc.collect()
    if calibrated:
        images = _images(cell.model, settings)
        calibration = images.first(CALIBRATION_IMAGES)
        quantize(draft, path, calibration, {"gmacs": gmacs}, origin=images.source, real=images.real)
        for file in (draft, draft.with_name(f"{draft.name}.data")):
            file.unlink(missing_ok=True)
    return gmacs


def feeds_for(cell: Cell, settings: Settings, batch: int) -> dict[str, NDArray[np.float32]]:
    """A batch of images by the name of the input, in turn where there are too few."""
    images = _images(cell.model, settings)
    pixels = images.first(min(batch, len(images)))
    return {INPUT_NAME: np.ascontiguousarray(pixels[np.arange(batch) % len(pixels)])}


def _run(path: Path, kind: OutputKind, images: Images, threads: int | None) -> NDArray[Any]:
    session = open_session(path, threads=threads)
    (dtype, _), *_ = session.inputs.values()
    found: list[NDArray[Any]] = []
    for pixels in images.batches(_BATCH):
        values = session.run({INPUT_NAME: pixels.astype(dtype, copy=False)})[kind.value]
        if not np.isfinite(values).all():
            raise VerificationError(
                f"the file gives values that are not finite (images {len(found) * _BATCH} and on): "
                "this precision does not hold the model's values"
            )
        found.append(values.argmax(axis=1).astype(np.int32) if kind is OutputKind.LOGITS else values)
    return np.concatenate(found)


@lru_cache(maxsize=4)
def _spec(model: str, image_size: tuple[int, int] | None) -> ModelSpec:
    return spec_of(model, image_size)


@lru_cache(maxsize=1)
def _loaded(model: str, settings: Settings) -> LoadedModel:
    """A model at a time: cells come model by model."""
    return create_model(model, weights=settings.weights, seed=settings.seed, image_size=settings.image_size)


def _output(cell: Cell, settings: Settings) -> OutputKind:
    return patch.choose_output(_loaded(cell.model, settings).model, None, cell.model)


@lru_cache(maxsize=1)
def _images(model: str, settings: Settings) -> Images:
    spec, loaded = _spec(model, settings.image_size), _loaded(model, settings)
    return images_for(
        loaded.resolved,
        (spec.in_chans, *spec.image_size),
        spec.num_classes,
        loaded.preprocessing,
        folder=settings.images,
        limit=settings.limit,
        seed=settings.seed,
    )
