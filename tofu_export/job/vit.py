"""Export of timm Vision Transformers: the adapter, and the main job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import nn

from tofu_export import demo, patch
from tofu_export.evaluate.images import demo_source
from tofu_export.evaluate.subjects import file_subject
from tofu_export.graph_patterns.lowering import MACS
from tofu_export.images.inputs import InputSet
from tofu_export.job.capacity import with_capacity
from tofu_export.job.model import calibration_count, images_for, load_job_model
from tofu_export.job.page import TOKENS, draw_tokens, why_no_token_maps
from tofu_export.job.pipeline import run_export
from tofu_export.job.progress import Listener, Progress
from tofu_export.job.request import Job
from tofu_export.options import IoType, OutputKind, Precision
from tofu_export.planning.plan import ModelSpec, Plan
from tofu_export.report.document import FULL, TOKEN_MAPS, Accuracy, VitReport
from tofu_export.report.model import ModelEntry, OutputEntry
from tofu_export.system import environment
from tofu_export.system.files import Staging
from tofu_export.system.typed_json import JsonObject, to_plain
from tofu_export.trace.export import INPUT_NAME, TORCH_TYPES, InputShape, trace
from tofu_export.trace.quantize import Calibration, quantize
from tofu_export.verification.eager import Checks, verify
from tofu_export.verification.engines import verify_engine
from tofu_export.verification.request import VerifyRequest
from tofu_export.verification.result import VerificationResult
from tofu_export.zoo.create import LoadedModel
from tofu_export.zoo.names import DEMO_MODEL

__all__ = ["VitAdapter", "run_job"]


def run_job(job: Job, listener: Listener) -> VitReport:
    """Export a Vision Transformer and write its files; see `pipeline.run_export`."""
    return run_export(job, VitAdapter(job), listener)


class VitAdapter:
    """Adapter of a timm Vision Transformer (`adapter.ModelAdapter`).

    Args:
        job: the export request.
        model: a live model to export in place of the one that `job` names; it is not changed, and its plan is
            ignored.
    """

    _loaded: LoadedModel
    _model: nn.Module
    _spec: ModelSpec
    _plan: Plan
    _output: OutputKind
    _inputs: InputSet
    _no_token_maps: str | None
    _report: VitReport

    def __init__(self, job: Job, model: nn.Module | None = None) -> None:
        self._job = job
        self._live = model

    @property
    def measures_accuracy(self) -> bool:
        """True for the demo model, which has labelled images."""
        return self._report.model.resolved == DEMO_MODEL and self._output is OutputKind.LOGITS

    def load(self, progress: Progress) -> VitReport:
        """Plan the reduction, load the model, and apply the plan."""
        job = self._job
        with progress.step("load", f"loading {job.model}"):
            found = load_job_model(job, self._live)
            self._inputs = images_for(job, found)
            found = with_capacity(found, job.reduction, self._inputs)
        loaded, self._spec, self._plan, self._output = found.loaded, found.spec, found.plan, found.output
        self._loaded = loaded
        self._model = patch.apply(loaded.model, found.plan, name=found.spec.name)
        read = patch.reads_patches(self._model, self._output, token_map=job.token_map)
        self._no_token_maps = why_no_token_maps(
            found.spec, found.plan, job.precisions, real=self._inputs.real, reads_patches=read
        )
        progress.done(_planned(loaded, found.plan))
        progress.note("weights", loaded.summary())
        self._report = VitReport(
            model=_model_entry(loaded, found.spec),
            plan=found.plan.entry(),
            output=OutputEntry(
                self._output.value, patch.output_names(self._model, self._output, token_map=job.token_map), {}
            ),
            command=job.command,
            environment=environment.collect(),
        )
        return self._report

    def trace(self, precision: Precision, *, reduced: bool) -> ir.Model:
        """Return the canonical graph; for the plain model this takes the plan off, and there is no token map."""
        job, spec = self._job, self._spec
        if not reduced:
            patch.remove(self._model)
        graph = trace(
            self._model,
            InputShape(spec.in_chans, *spec.image_size),
            output=self._output,
            token_map=job.token_map and reduced,
            precision=precision.traced,
            io_dtype=torch.float32 if job.io_type is IoType.FP32 else TORCH_TYPES[precision.traced],
            batch=job.batch,
            opset=job.opset_of(precision),
        )
        if reduced:
            self._report.output = replace(self._report.output, shapes=_shapes(graph))
        return graph

    def gmacs(self, graph: ir.Model, *, reduced: bool) -> float | None:
        """Count the multiply-accumulates of the graph for one image, in 10^9."""
        macs: int | None = graph.meta[MACS]
        return None if macs is None else round(macs / 1e9, 4)

    def metadata(self) -> JsonObject:
        """Return all metadata needed to verify, evaluate and serve a file without the job."""
        report, loaded = self._report, self._loaded
        versions = report.environment.versions
        named = loaded.labels if self._output is OutputKind.LOGITS else ()
        labels = self._job.labels or named
        return {
            "version": versions["tofu_export"],
            "model": loaded.resolved,
            "weights": to_plain(loaded.weights),
            "num_classes": report.model.num_classes,
            "prefix_tokens": report.model.prefix_tokens,
            "plan": to_plain(report.plan),
            "output": to_plain(report.output),
            "preprocessing": loaded.preprocessing.as_dict(),
            "preprocessing_from": loaded.preprocessing_from,
            "target": self._job.target.value,
            "batch": str(self._job.batch),
            "versions": {name: versions[name] for name in ("torch", "timm", "onnx", "onnxscript")},
            **({"labels": list(labels)} if labels else {}),
        }

    def quantize(self, draft: Path, path: Path, precision: Precision, metadata: Mapping[str, Any]) -> Calibration:
        """Quantise a file, calibrated on the last images, as verification takes the first ones."""
        inputs, job = self._inputs, self._job
        return quantize(
            draft, path, inputs.pixels[-calibration_count(job) :], metadata,
            precision=precision, origin=inputs.source, real=inputs.real, wanted=job.quantization,
        )  # fmt: skip

    def verify(
        self, path: Path, precision: Precision, *, layers: bool, on_batch: Callable[[int], None]
    ) -> VerificationResult:
        """Compare a file with the eager model on the images."""
        return verify(
            path, self._model, self._inputs.pixels, precision=precision, batch=self._job.batch,
            source=self._inputs.source, output=self._output, token_map=self._job.token_map,
            checks=Checks(layers=layers), on_batch=on_batch,
        )  # fmt: skip

    def release(self) -> None:
        """Release the model."""
        del self._loaded, self._model

    def inspect(self, files: Mapping[Precision, Path], full: Path | None, stage: Staging, progress: Progress) -> None:
        """Measure accuracy if there are labels, and draw token maps of real images."""
        if full is not None and self.measures_accuracy:
            self._measure_accuracy({FULL: full, **{path.name: path for path in files.values()}}, progress)
        reason = self._no_token_maps
        if reason is None:
            with progress.step(TOKEN_MAPS, "reading out what was pruned and merged"):
                reason = draw_tokens(next(iter(files.values())), self._inputs, stage.path(TOKENS))
        if reason is not None:
            self._report.skip(TOKEN_MAPS, reason)

    def feeds(self, batch: int) -> dict[str, NDArray[Any]]:
        """Return a batch of float32 images, repeated in turn if there are too few."""
        return {INPUT_NAME: self._inputs.pixels[np.arange(batch) % len(self._inputs)]}

    def verify_engine(self, path: Path, on_step: Callable[[str], None]) -> tuple[VerificationResult, ...]:
        """Compare an engine with the eager model and with its ONNX file; for a live model, only with its file."""
        job = self._job
        if self._live is not None:
            reference = path.with_name(job.onnx_name(Precision(path.name.split(".")[1])))
            return verify_engine(VerifyRequest(path, reference=reference, seed=job.seed, images=job.images), on_step)
        request = VerifyRequest(path, job.model, job.weights, job.seed, job.num_classes, images=job.images)
        return verify_engine(request, on_step)

    def _measure_accuracy(self, files: Mapping[str, Path], progress: Progress) -> None:
        """Measure top-1 of the full and the reduced files on the demo model's held-out images."""
        with progress.step("accuracy", "measuring accuracy on the held-out images"):
            source = demo_source()
            for label, path in files.items():
                progress.tick(label)
                subject = file_subject(path, preprocessing=demo.PREPROCESSING)
                top1 = float((subject.decide(source) == source.labels).mean())
                self._report.accuracy += (Accuracy(label, len(source), top1, "ort-cpu"),)
        progress.done("top-1: " + ", ".join(f"{row.artifact} {row.top1:.1%}" for row in self._report.accuracy))


def _planned(loaded: LoadedModel, plan: Plan) -> str:
    if not plan.removes and plan.reduction.select.halts:
        return f"{loaded.resolved}: tokens halt and stay, hidden from attention ({plan.gmacs_full:.2f} GMACs)"
    if not plan.removes:
        return f"{loaded.resolved}: no token is removed, this is the plain model ({plan.gmacs_full:.2f} GMACs)"
    entry = plan.entry()
    return (
        f"{loaded.resolved}, pattern {plan.pattern}{entry.select_words}: {plan.gmacs_full:.2f} GMACs become "
        f"{plan.gmacs_reduced:.2f}, {plan.flop_ratio:.2f}x fewer; token sizes: {entry.sizes_words}"
    )


def _shapes(graph: ir.Model) -> dict[str, tuple[int | str, ...]]:
    """Return the shape of each output, by name; a dynamic batch is `batch`."""
    shapes: dict[str, tuple[int | str, ...]] = {}
    for value in graph.graph.outputs:
        assert value.name is not None and value.shape is not None  # the tracer says both
        shapes[value.name] = tuple(size if isinstance(size, int) else "batch" for size in value.shape)
    return shapes


def _model_entry(loaded: LoadedModel, spec: ModelSpec) -> ModelEntry:
    return ModelEntry(
        name=loaded.name,
        resolved=loaded.resolved,
        weights=loaded.weights,
        params=spec.params,
        image_size=spec.image_size,
        tokens=spec.tokens,
        prefix_tokens=spec.prefix_tokens,
        depth=spec.depth,
        num_classes=spec.num_classes,
        preprocessing=loaded.preprocessing,
        preprocessing_from=loaded.preprocessing_from,
    )
