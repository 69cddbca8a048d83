"""Evaluate one cell: make its file as the main job does, verify it, and run it in onnxruntime on all images."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from torch import nn

from tofu_export import patch
from tofu_export.evaluate.classes import read_class_map
from tofu_export.evaluate.image_cache import cached
from tofu_export.evaluate.images import ImageSource, demo_source, folder_source, generated_source
from tofu_export.evaluate.subjects import file_subject
from tofu_export.graph_patterns.canonical import with_methods
from tofu_export.graph_patterns.lowering import MACS, lower
from tofu_export.options import BatchRange, OutputKind
from tofu_export.options.quantization import calibration_images
from tofu_export.planning.plan import ModelSpec, make_plan
from tofu_export.report.verification import Verification
from tofu_export.sweep.grid import Cell
from tofu_export.sweep.records import Evaluation, Record
from tofu_export.sweep.settings import Settings
from tofu_export.trace.export import INPUT_NAME, InputShape, release, save, trace
from tofu_export.trace.quantize import quantize
from tofu_export.verification.eager import verify
from tofu_export.verification.pixels import brings_images
from tofu_export.zoo.create import LoadedModel, create_model
from tofu_export.zoo.specs import spec_as_loaded, spec_of

__all__ = ["evaluate", "feeds_for", "write_file"]

GENERATED_IMAGES = 64
"""Number of images to generate if none are given."""

VERIFIED_BATCHES = (1, 3)
"""Batch sizes at which a file is verified: one, and an odd one that shows whether the batch is really dynamic."""


def evaluate(cell: Cell, settings: Settings, threads: int | None = None) -> Record[Evaluation]:
    """Make the file of a cell in a temporary folder, verify it and run it on all images.

    Args:
        cell: the cell.
        settings: weights, images and target, and whether to verify.
        threads: threads of onnxruntime inside an operator; None for its default.

    Raises:
        TofuError: the model, its weights or the images are not available, or the file cannot be made or run, or
            outputs NaN.
        VerificationError: the file does not compute what the eager model computes.
    """
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="tofu-export-sweep-") as folder:
        path = Path(folder) / "cell.onnx"
        gmacs = write_file(cell, settings, path)
        size = sum(file.stat().st_size for file in path.parent.iterdir())
        verification = _verified(cell, settings, path) if settings.verify else None
        source = _images(cell.model, settings)
        outputs = file_subject(path, threads=threads).decide(source)
    right = None if source.labels is None else float((outputs == source.labels).mean())
    origin = f"{len(source)} image{'s' * (len(source) != 1)}, {source.source}"
    loaded = _loaded(cell.model, settings).summary()
    seconds = round(time.perf_counter() - start, 2)
    result = Evaluation(right, origin, source.real, gmacs, size, verification, seconds, loaded, len(outputs))
    return Record(result, outputs)


def write_file(cell: Cell, settings: Settings, path: Path) -> float | None:
    """Write the file of a cell and return its GMACs for one image.

    Raises:
        TofuError: as in `evaluate`.
    """
    spec, loaded = _spec(cell.model, settings), _loaded(cell.model, settings)
    output = _output(cell, settings)
    methods = [layer.method.word for layer in make_plan(spec, cell.reduction).layers]
    graph = lower(with_methods(_traced(cell, settings), methods), settings.target, cell.precision.traced)
    macs: int | None = graph.meta[MACS]
    gmacs = None if macs is None else round(macs / 1e9, 4)
    calibrated = cell.precision.calibrated
    draft = path.with_name(f"draft-{path.name}") if calibrated else path
    facts = {"output": {"kind": output.value}, "preprocessing": loaded.preprocessing.as_dict(), "gmacs": gmacs}
    save(graph, draft, facts)
    release(graph)
    del graph
    gc.collect()
    if calibrated:
        source = _images(cell.model, settings)
        quantize(
            draft, path, _first(source, calibration_images(given=settings.images is not None)), facts,
            precision=cell.precision, origin=source.source, real=source.real,
        )  # fmt: skip
        for file in (draft, draft.with_name(f"{draft.name}.data")):
            file.unlink(missing_ok=True)
    return gmacs


def _traced(cell: Cell, settings: Settings) -> ir.Model:
    """Return the canonical graph of a cell, reusing the last trace if only the methods differ."""
    key = (cell.trace, settings)
    if key not in _last_trace:
        while _last_trace:  # gone before there is another one: in half precision each has its own weights
            release(_last_trace.popitem()[1])
        gc.collect()
        spec = _spec(cell.model, settings)
        with _reduced(cell, settings) as model:
            shape = InputShape(spec.in_chans, *spec.image_size)
            output = _output(cell, settings)
            _last_trace[key] = trace(
                model, shape, output=output, precision=cell.precision.traced, batch=BatchRange(),
                opset=cell.precision.least_opset,
            )  # fmt: skip
    return _last_trace[key]


_last_trace: dict[Hashable, ir.Model] = {}


def _verified(cell: Cell, settings: Settings, path: Path) -> Verification:
    """Compare the file of a cell with the eager model, as the main job does, at fewer batch sizes.

    Raises:
        VerificationError: the file computes something else.
    """
    output = _output(cell, settings)
    source = _images(cell.model, settings)
    with _reduced(cell, settings) as model:
        result = verify(
            path,
            model,
            _first(source, max(VERIFIED_BATCHES)),
            precision=cell.precision,
            batch=VERIFIED_BATCHES,
            source=source.source,
            output=output,
        )
    if not result.passed:
        raise result.failure("Its row is left out")
    return result.entry()


@contextmanager
def _reduced(cell: Cell, settings: Settings) -> Iterator[nn.Module]:
    """Provide the eager model with the plan of a cell inside the context."""
    spec, model = _spec(cell.model, settings), _loaded(cell.model, settings).model
    patch.apply(model, make_plan(spec, cell.reduction), name=spec.name)
    try:
        yield model
    finally:
        patch.remove(model)


def feeds_for(cell: Cell, settings: Settings, batch: int) -> dict[str, NDArray[np.float32]]:
    """Return a batch of images by the name of the input, repeated in turn if there are too few."""
    pixels = _first(_images(cell.model, settings), batch)
    return {INPUT_NAME: np.ascontiguousarray(pixels[np.arange(batch) % len(pixels)])}


def _first(source: ImageSource, count: int) -> NDArray[np.float32]:
    """Return at most `count` images, float32 [B, C, H, W]."""
    return source.chosen(range(min(count, len(source)))).all_pixels()


@lru_cache(maxsize=4)
def _spec(model: str, settings: Settings) -> ModelSpec:
    return spec_as_loaded(spec_of(model, settings.image_size), _loaded(model, settings))


@lru_cache(maxsize=1)
def _loaded(model: str, settings: Settings) -> LoadedModel:
    """Load a model; only one is kept, as cells come model by model."""
    return create_model(model, weights=settings.weights, seed=settings.seed, image_size=settings.image_size)


def _output(cell: Cell, settings: Settings) -> OutputKind:
    return patch.choose_output(_loaded(cell.model, settings).model, None, cell.model)


@lru_cache(maxsize=1)
def _images(model: str, settings: Settings) -> ImageSource:
    loaded = _loaded(model, settings)
    prepared = loaded.preprocessing
    classes = _spec(model, settings).num_classes
    if settings.images is not None:
        source = folder_source(
            settings.images,
            prepared,
            num_classes=classes if classes and settings.labelled else None,
            class_map=None if settings.class_map is None else read_class_map(settings.class_map),
            order=settings.class_order,
            class_names=loaded.labels,
        )
    elif brings_images(loaded.resolved, prepared):
        source = demo_source()
    else:
        return generated_source(settings.limit or GENERATED_IMAGES, prepared, seed=settings.seed)
    source = source.limited(settings.limit)
    return source if settings.image_cache is None else cached(source, settings.image_cache)
