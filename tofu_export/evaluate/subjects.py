"""Subjects of evaluation: an eager model, an ONNX file, a TensorRT engine. Each maps pixels to logits or features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tofu_export import patch
from tofu_export.artifact.card import ModelCard
from tofu_export.artifact.feeds import as_asked, fixed_batch
from tofu_export.artifact.preprocessing import Preprocessing
from tofu_export.benchmarking.backends import open_backend
from tofu_export.benchmarking.options import CPU, PLAN_BACKENDS
from tofu_export.compare.agreement import ModelOutputs
from tofu_export.engines.describing.sidecar import missing_sidecar, read_sidecar
from tofu_export.errors import ExportError, OptionError, UnsupportedModelError
from tofu_export.evaluate.images import ImageSource
from tofu_export.evaluate.request import TORCH
from tofu_export.options import PLAN_SUFFIXES, OutputKind, Reduction
from tofu_export.planning.entry import PlanEntry
from tofu_export.planning.plan import Plan, make_plan
from tofu_export.system.files import require_file
from tofu_export.system.typed_json import from_plain, to_object
from tofu_export.verification.facts import FileFacts
from tofu_export.zoo.create import LoadedModel, create_model
from tofu_export.zoo.specs import spec_as_loaded, spec_of
from tofu_export.zoo.weights import WeightsSource

__all__ = ["Origin", "Subject", "eager_subject", "file_subject", "load_eager"]

Pixels = NDArray[np.float32]

_BATCH = 32


@dataclass(frozen=True)
class Origin:
    """Model behind a subject, as far as known.

    Attributes:
        name: resolved name; None for a foreign file.
        weights: record of its loaded weights, as in reports.
        image_size: height and width.
        num_classes: width of the classifier.
    """

    name: str | None = None
    weights: Mapping[str, Any] = field(default_factory=dict)
    image_size: tuple[int, int] | None = None
    num_classes: int | None = None


@dataclass(frozen=True)
class Subject:
    """Model or file to evaluate.

    Attributes:
        label: a model's name, or a file's.
        backend: backend that runs it.
        device: device that runs it.
        num_classes: width of its logits; None without logits.
        preprocessing: how images are prepared for it.
        run: returns outputs for pixels [B, C, H, W].
        batch: the only batch size that it accepts; None for any.
        plan: its reduction; None if unknown.
        param_count: number of parameters; None if unknown.
        origin: the model behind it.
        labels: names of its classes, in order; empty if it has none.
        loaded: description of the loaded weights, in one line; None for a file.
    """

    label: str
    backend: str
    device: str
    num_classes: int | None
    preprocessing: Preprocessing
    run: Callable[[Pixels], ModelOutputs]
    batch: int | None = None
    plan: PlanEntry | None = None
    param_count: int | None = None
    origin: Origin = Origin()
    labels: tuple[str, ...] = ()
    loaded: str | None = None

    def outputs(self, pixels: Pixels) -> ModelOutputs:
        """Return outputs for any number of images; the last batch is padded if the batch size is fixed.

        Raises:
            ExportError: an output is not finite.
        """
        count = len(pixels)
        if self.batch is not None and count < self.batch:
            pixels = np.concatenate([pixels, np.repeat(pixels[-1:], self.batch - count, axis=0)])
        found = self.run(pixels)
        logits, features = (None if rows is None else rows[:count] for rows in found)
        for rows in (logits, features):
            if rows is not None and not np.isfinite(rows).all():
                bad = int(np.flatnonzero(~np.isfinite(rows).reshape(count, -1).all(axis=1))[0])
                raise ExportError(
                    f"{self.label} gives values that are not finite (image {bad + 1} of a batch of {count}): its "
                    "accuracy would mean nothing"
                )
        return ModelOutputs(logits, features)

    def decide(self, source: ImageSource) -> NDArray[Any]:
        """Return classes of all images, int32 [n], or features if there is no classifier, float32 [n, C].

        Raises:
            ExportError: an output is not finite.
            OptionError: an image cannot be read.
        """
        found: list[NDArray[Any]] = []
        for batch in source.batches(self.batch or _BATCH):
            logits, features = self.outputs(batch.pixels)
            if logits is not None:
                found.append(logits.argmax(axis=1).astype(np.int32))
            elif features is not None:
                found.append(features)
        return np.concatenate(found)


def load_eager(
    name: str,
    *,
    weights: WeightsSource,
    seed: int = 0,
    image_size: tuple[int, int] | None = None,
    num_classes: int | None = None,
) -> LoadedModel:
    """Load the full model, which must pool its tokens.

    Raises:
        UnsupportedModelError: the model has no pooling.
        TofuError: as in `create_model`.
    """
    loaded = create_model(name, weights=weights, seed=seed, image_size=image_size, num_classes=num_classes)
    patch.choose_output(loaded.model, None, loaded.resolved)
    return loaded


def eager_subject(loaded: LoadedModel, reduction: Reduction | None, *, num_classes: int | None = None) -> Subject:
    """Return a model in eager PyTorch as a subject, reduced if asked for; it gives logits, if any, and features.

    Args:
        loaded: the model, patched in place for a reduction.
        reduction: None for the full model.
        num_classes: number of classes that the model was created with.

    Raises:
        TofuError: the model cannot be reduced, or the options do not fit it.
    """
    image_size = loaded.preprocessing.image_size
    plan: Plan | None = None
    if reduction is not None:
        spec = spec_as_loaded(spec_of(loaded.name, image_size, num_classes), loaded)
        plan = make_plan(spec, reduction)
        patch.apply(loaded.model, plan, name=loaded.resolved)
    classes = int(getattr(loaded.model, "num_classes", 0))
    return Subject(
        loaded.resolved,
        TORCH,
        "cpu",
        classes or None,
        loaded.preprocessing,
        _eager_call(loaded.model),
        plan=None if plan is None else plan.entry(),
        param_count=sum(parameter.numel() for parameter in loaded.model.parameters()),
        origin=Origin(loaded.resolved, to_object(loaded.weights), image_size, classes),
        labels=loaded.labels,
        loaded=loaded.summary(),
    )


def _eager_call(model: nn.Module) -> Callable[[Pixels], ModelOutputs]:
    architecture: Any = model

    @torch.inference_mode()
    def run(pixels: Pixels) -> ModelOutputs:
        tokens = architecture.forward_features(torch.from_numpy(pixels))
        features = architecture.forward_head(tokens, pre_logits=True)
        logits = architecture.forward_head(tokens) if architecture.num_classes else None
        return ModelOutputs(None if logits is None else logits.numpy(), features.numpy())

    return run


def file_subject(
    path: Path,
    backend: str | None = None,
    threads: int | None = None,
    preprocessing: Preprocessing | None = None,
) -> Subject:
    """Return an ONNX file in onnxruntime, or an engine in TensorRT, as a subject.

    Args:
        path: the file. An engine is described by its sidecar.
        backend: name in `engines.backends`; None for onnxruntime on the CPU, or the TensorRT that the engine is for.
        threads: threads of onnxruntime.
        preprocessing: preprocessing for files that do not state it.

    Raises:
        OptionError: the backend does not run such a file, or the file does not state its image input, or its plan is
            damaged.
        TofuError: the file cannot be loaded.
    """
    is_plan = path.suffix in PLAN_SUFFIXES
    if backend is not None and is_plan is not (backend in PLAN_BACKENDS):
        kind = "a plan" if is_plan else "an ONNX file"
        raise OptionError(f"{path.name} is {kind}, which {backend} does not run: choose another --backend")
    own, card = _file_card(path)
    backend = backend or own
    kind, prepared, origin = card.output or OutputKind.LOGITS, card.preprocessing or preprocessing, _origin(card)
    written, labels = card.find("plan", dict), card.labels
    plan = None if written is None else from_plain(PlanEntry, written, f"{path.name}: plan")
    if kind not in (OutputKind.LOGITS, OutputKind.FEATURES):
        raise UnsupportedModelError(
            f"{path.name} gives {kind.value}: accuracy and agreement need logits, or pooled features"
        )
    session = open_backend(path, backend, threads)
    inputs, outputs = session.session.inputs, session.session.outputs
    if len(inputs) != 1:
        raise OptionError(
            f"{path.name} has {len(inputs)} inputs, expected one: images [batch, channels, height, width]"
        )
    (image,), output = inputs, kind.value if kind.value in outputs else next(iter(outputs))
    shape = inputs[image].shape
    if prepared is None:
        raise OptionError(f"{path.name} does not say how images are prepared for it: name its model with --model")
    if len(shape) == 4 and None not in shape[1:]:
        prepared = prepared.with_size(shape[1:])
        origin = replace(origin, image_size=prepared.image_size)

    def run(pixels: Pixels) -> ModelOutputs:
        rows = np.asarray(session.session.run(as_asked({image: pixels}, inputs))[output]).astype(np.float32)
        return ModelOutputs(rows) if kind is OutputKind.LOGITS else ModelOutputs(None, rows)

    width = outputs[output].shape[-1] if outputs[output].shape else None
    return Subject(
        path.name,
        backend,
        session.device,
        (width or origin.num_classes) if kind is OutputKind.LOGITS else None,
        prepared,
        run,
        fixed_batch(inputs),
        plan,
        None,
        origin,
        labels,
    )


def _file_card(path: Path) -> tuple[str, ModelCard]:
    """Return the backend of a file, and its card: for an engine that of the ONNX file that it was built from."""
    if path.suffix not in PLAN_SUFFIXES:
        return CPU, FileFacts.read(path).card
    require_file(path, "a TensorRT plan")
    sidecar = read_sidecar(path)
    if sidecar is None:
        raise OptionError(f"{path}: {missing_sidecar(path)}, or evaluate its ONNX file")
    return next(name for name, flavour in PLAN_BACKENDS.items() if flavour is sidecar.flavour), sidecar.card


def _origin(card: ModelCard) -> Origin:
    return Origin(card.find("model", str), card.find("weights", dict) or {}, None, card.find("num_classes", int))
