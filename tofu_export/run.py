"""Run the main job, end to end: plan, patch, trace, lower, verify, measure, build engines, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import nn

from tofu_export import demo, environment, patch
from tofu_export.autotune import Tuning, autotune
from tofu_export.bundle import EngineFailure, bundle_engine_failure, check_folder
from tofu_export.engines.backends import open_contender
from tofu_export.engines.benchmark import Contender, run_benchmark
from tofu_export.engines.build import EngineRequest, build_engine, resolve_capabilities
from tofu_export.engines.flavours import TURING, Flavour
from tofu_export.engines.trtexec_text import render
from tofu_export.errors import EngineBuildError, PrecisionMismatchError, VerificationError
from tofu_export.evaluate.images import demo_source
from tofu_export.evaluate.subjects import file_subject
from tofu_export.export import INPUT_NAME, TORCH_TYPES, InputShape, release, save, trace
from tofu_export.files import Staging, staging
from tofu_export.graph_patterns.lowering import MACS, census, lower
from tofu_export.graph_patterns.recipe import Recipe
from tofu_export.inputs import InputSet
from tofu_export.job import NOT_PUBLISHED, Clock, Job, Listener
from tofu_export.job_engines import (
    check_requests,
    engine_names_of,
    engine_requests,
    flavour_of,
    verify_engines,
    why_no_engine,
)
from tofu_export.job_files import describe_file, record_engine, with_data
from tofu_export.job_model import images_for, load_job_model
from tofu_export.job_page import TOKENS, draw_tokens, why_no_token_maps, write_page
from tofu_export.memory import give_back
from tofu_export.options import IoType, OutputKind, Precision
from tofu_export.ort import HALF_THROUGH_CASTS, NO_BFLOAT16
from tofu_export.plan import ModelSpec, Plan
from tofu_export.quantize import Calibration, quantize
from tofu_export.report import Report, loading_words, sizes_words
from tofu_export.verify import verify
from tofu_export.verify.bundling import bundle_failure
from tofu_export.zoo.create import LoadedModel
from tofu_export.zoo.names import DEMO_MODEL

__all__ = ["run_job"]

FULL = "full"
"""Name of the unreduced model in reports."""
_FULL_FILE = "full.onnx"
_DRAFT = "draft.fp32.onnx"
_NOT_REAL = (
    "no --images DIR was given, so its ranges are those of generated ones: calibrate on images like those that it will "
    "see, or measure its accuracy on them"
)


def run_job(job: Job, listener: Listener) -> Report:
    """Run `job` and write its files; nothing appears in the output folder before all of it is complete.

    Raises:
        TofuError: the first thing that went wrong. After a failed verification the report is on disk, no model is.
    """
    if job.bundle is not None:
        check_folder(job.bundle)
    flavour = flavour_of(job)
    if flavour is not None:
        check_requests(job, flavour)
    with staging(job.output) as stage:
        return _Run(job, stage, listener).run(flavour)


class _Run:
    """One job on its way: what every step reads and what it adds to the report."""

    def __init__(self, job: Job, stage: Staging, listener: Listener) -> None:
        self._job = job
        self._stage = stage
        self._listener = listener
        self._seconds: dict[str, float] = {}
        self._clock = Clock(listener, self._seconds)
        self._files: dict[Precision, str] = {}
        self._output = OutputKind.LOGITS
        self._recipe: Recipe | None = None
        self._bundle = job.bundle

    def run(self, flavour: Flavour | None) -> Report:
        with self._clock.timed("total"):
            report, benchmark_text = self._steps(flavour)
        self._publish(report, benchmark_text)
        return report

    def _steps(self, flavour: Flavour | None) -> tuple[Report, str]:
        job = self._job
        with self._clock.step("load", f"loading {job.model}"):
            model = load_job_model(job)
            inputs = images_for(job, model)
            loaded, spec, plan = model.loaded, model.spec, model.plan
            self._output = model.output
            del model  # it would keep the weights
        self._listener.done(_planned(loaded, plan))
        self._listener.step("weights")
        self._listener.done(loading_words(report_model := _model_entry(loaded, spec)))
        names = list(self._output.names_with(job.token_map))
        output: dict[str, Any] = {"kind": self._output.value, "names": names, "shapes": {}}
        report = Report(report_model, plan.to_dict(), output, job.command, environment.collect())
        report.timings_s = self._seconds
        self._export_all(loaded, spec, plan, inputs, report)
        has_full = self._export_full(loaded, spec)
        del loaded
        give_back()
        if has_full and self._measures_accuracy(report.model["resolved"]):
            self._measure_accuracy(report)
        self._draw_tokens(plan, inputs, report)
        benchmark_text = self._benchmark(inputs, report)
        self._build_engines(flavour, inputs, report)
        return report, benchmark_text

    def _export_all(self, loaded: LoadedModel, spec: ModelSpec, plan: Plan, inputs: InputSet, report: Report) -> None:
        """Trace, lower, save and verify one file per precision."""
        job = self._job
        model = patch.apply(loaded.model, plan, name=spec.name)
        failures: list[VerificationError] = []
        for precision in job.precisions:
            name = job.onnx_name(precision)
            with self._clock.step(f"export {precision.value}", f"exporting {name}"):
                graph = self._traced(model, spec, precision, token_map=job.token_map)
                tuning = self._tune(graph, name, precision, inputs, report)
                graph = lower(graph, job.target, precision.traced, None if tuning is None else tuning.recipe)
                ops, gmacs = census(graph), _gmacs(graph)
                report.output["shapes"] = _shapes(graph)
                metadata = {**self._metadata(loaded, report), "precision": precision.value, "gmacs": gmacs}
                calibrated = precision is Precision.INT8
                save(graph, self._stage.path(_DRAFT if calibrated else name), metadata)
                release(graph)
                del graph
                give_back()  # what the exporter leaves holds itself, and a half-precision copy of the model
                calibration = self._quantize(name, metadata, inputs) if calibrated else None
                if calibration is not None:
                    ops = dict(calibration.ops)
            self._files[precision] = name
            entry = describe_file(self._stage, "onnx", precision, job.target.value, name)
            more = {} if tuning is None else {"autotune": tuning.to_dict()}
            how = "" if tuning is None else f", autotuned to {tuning}"
            if calibration is not None:
                more, how = {"calibration": calibration.to_dict()}, f", {calibration}"
                if not calibration.real:
                    report.skip(f"calibration of {name} on real images", _NOT_REAL)
            report.artifacts.append(
                {**entry, "opset": job.opset, "gmacs": gmacs, "nodes": sum(ops.values()), "ops": ops, **more}
            )
            self._listener.done(f"{name}: {sum(ops.values())} nodes, {entry['bytes'] / 1e6:.1f} MB{how}")
            failures += self._verify(name, precision, model, inputs, report)
        self._stop_at(failures, report)

    def _stop_at(self, failures: Sequence[VerificationError], report: Report) -> None:
        """Write the report and no model, if anything is wrong."""
        if failures:
            report.artifacts.clear()
            self._files.clear()
            self._publish(report, "")
            raise failures[0]

    def _tune(
        self, graph: ir.Model, name: str, precision: Precision, inputs: InputSet, report: Report
    ) -> Tuning | None:
        """The recipe for a traced graph where it is to be measured, None for the table's own."""
        job = self._job
        if not job.autotune:
            return None
        if precision is not Precision.FP32:
            report.skip(f"autotune of {name}", "only FP32 files are tuned")
            return None
        tuning = autotune(
            graph,
            job.target,
            batch=job.batch.optimum,
            feeds=_feeds(inputs, job.batch.optimum),
            folder=self._stage.folder,
            threads=job.threads,
            on_recipe=lambda recipe: self._listener.tick(f"timing {recipe}"),
        )
        self._recipe = tuning.recipe
        return tuning

    def _quantize(self, name: str, metadata: Mapping[str, Any], inputs: InputSet) -> Calibration:
        """Make the int8 file of the float32 draft, which goes."""
        self._listener.tick("calibrating int8")
        draft = self._stage.path(_DRAFT)
        calibration = quantize(
            draft, self._stage.path(name), inputs.pixels, metadata, origin=inputs.source, real=inputs.real
        )
        for path in (draft, draft.with_name(f"{_DRAFT}.data")):
            path.unlink(missing_ok=True)
        return calibration

    def _verify(
        self, name: str, precision: Precision, model: nn.Module, inputs: InputSet, report: Report
    ) -> list[VerificationError]:
        if not self._job.verify:
            report.skip(f"verification of {name}", "switched off by --no-verify")
            return []
        if precision is Precision.BF16:
            report.skip(f"verification of {name}", NO_BFLOAT16)
            return []
        path = self._stage.path(name)
        compare = partial(
            verify, path, model, inputs.pixels, precision=precision, batch=self._job.batch,
            source=inputs.source, output=self._output, token_map=self._job.token_map,
            on_batch=lambda size: self._listener.tick(f"batch {size}"),
        )  # fmt: skip
        with self._clock.step(f"verify {precision.value}", f"verifying {name} against eager PyTorch"):
            result = compare()
            if not result.passed and self._bundle is not None:
                result = compare(layers=True)  # for the bundle: where it begins
        report.verification.append(result.to_dict())
        self._listener.done(str(result))
        if result.passed:
            return []
        failure = result.failure(NOT_PUBLISHED)
        if self._bundle is not None:
            failure = bundle_failure(self._bundle, path, failure, report.to_dict(), result)
            self._bundle = None  # of several files that are wrong, the first one is bundled
        return [failure]

    def _export_full(self, loaded: LoadedModel, spec: ModelSpec) -> bool:
        """Write the unreduced model to measure against; False where nothing would use it."""
        job = self._job
        timed = any(precision.runs_on_cpus for precision in job.precisions)
        if not timed or not (job.bench or self._measures_accuracy(loaded.resolved)):
            return False
        with self._clock.step("export full", "exporting the full model, to measure against"):
            graph = self._traced(patch.remove(loaded.model), spec, Precision.FP32, token_map=False)
            graph = lower(graph, job.target, Precision.FP32, self._recipe)
            save(graph, self._stage.path(_FULL_FILE), {"gmacs": _gmacs(graph)})
            release(graph)
        self._listener.done("the full model is ready to be measured against")
        return True

    def _measures_accuracy(self, resolved: str) -> bool:
        return resolved == DEMO_MODEL and self._output is OutputKind.LOGITS

    def _measure_accuracy(self, report: Report) -> None:
        """Top-1 of the full and the reduced files on the demo model's held-out images."""
        names = {FULL: _FULL_FILE, **{name: name for key, name in self._files.items() if key is not Precision.BF16}}
        with self._clock.step("accuracy", "measuring accuracy on the held-out images"):
            source = demo_source()
            for label, name in names.items():
                self._listener.tick(label)
                subject = file_subject(self._stage.path(name), preprocessing=demo.PREPROCESSING)
                top1 = float((subject.decide(source) == source.labels).mean())
                report.accuracy.append({"artifact": label, "images": len(source), "top1": top1, "backend": "ort-cpu"})
        self._listener.done("top-1: " + ", ".join(f"{row['artifact']} {row['top1']:.1%}" for row in report.accuracy))

    def _draw_tokens(self, plan: Plan, inputs: InputSet, report: Report) -> None:
        """What the first file decides about some images, for the page; bfloat16 runs nowhere here."""
        reason = why_no_token_maps(inputs, removes=plan.removes)
        files = [name for precision, name in self._files.items() if precision is not Precision.BF16]
        if reason is None and not files:
            reason = NO_BFLOAT16
        if reason is None:
            with self._clock.step("token maps", "reading out what was pruned and merged"):
                reason = draw_tokens(self._stage.path(files[0]), inputs, self._stage.path(TOKENS))
        if reason is not None:
            report.skip("token maps", reason)

    def _benchmark(self, inputs: InputSet, report: Report) -> str:
        """Time the reduced against the full model; returns the result as text."""
        job = self._job
        if not job.bench:
            report.skip("benchmark", "switched off by --no-bench")
            return ""
        for precision, name in self._files.items():
            if not precision.runs_on_cpus:
                report.skip(f"benchmark of {name}", f"{HALF_THROUGH_CASTS}: its time would say nothing about a GPU")
        timed = [name for precision, name in self._files.items() if precision.runs_on_cpus]
        if not timed:
            return ""
        with self._clock.step("benchmark", "timing full against reduced in onnxruntime"):
            measurements = run_benchmark(
                [Contender(FULL, self._stage.path(_FULL_FILE))]
                + [Contender(name, self._stage.path(name)) for name in timed],
                batches=job.bench_batches or (job.batch.optimum,),
                make_feeds=lambda batch: _feeds(inputs, batch),
                open_runner=open_contender,
                threads=job.threads,
                baseline=FULL,
                on_progress=lambda at: self._listener.tick(f"batch {at.batch}, {at.phase}, {at.fraction:.0%}"),
            )
        report.benchmark = [row.to_dict() for row in measurements]
        text = render(measurements, baseline=FULL)
        self._listener.done(text)
        return text

    def _build_engines(self, flavour: Flavour | None, inputs: InputSet, report: Report) -> None:
        """Build one engine and sidecar per ONNX file."""
        job = self._job
        if flavour is None:
            report.skip("engines", why_no_engine(job))
            return
        for precision, onnx_name in self._files.items():
            requests = engine_requests(job, flavour, precision, self._stage.folder)
            if len(requests) < len(engine_names_of(job, flavour, precision)):
                report.skip(f"{TURING} engine of {onnx_name}", f"{TURING} runs FP16 files only")
            for request in requests:
                self._build_engine(request, precision, inputs, report)
        self._stop_at(verify_engines(job, self._stage.folder, report, self._listener), report)

    def _build_engine(self, request: EngineRequest, precision: Precision, inputs: InputSet, report: Report) -> None:
        job, name, flavour = self._job, request.engine_path.name, request.flavour
        with self._clock.step(f"engine {precision.value}", f"building {name}"):
            try:
                receipt = build_engine(request, on_tick=lambda seconds: self._listener.tick(f"{seconds:.0f} s"))
            except (EngineBuildError, PrecisionMismatchError) as error:
                if self._bundle is None:
                    raise
                wanted = EngineFailure(flavour.name, job.batch, resolve_capabilities(request))
                feeds = _feeds(inputs, job.batch.optimum)
                raise bundle_engine_failure(
                    self._bundle, request.onnx_path, error, report.to_dict(), wanted, feeds
                ) from error
            done = record_engine(receipt, request, precision, report, self._stage)
        self._listener.done(done)

    def _traced(self, model: nn.Module, spec: ModelSpec, precision: Precision, *, token_map: bool) -> ir.Model:
        job = self._job
        return trace(
            model,
            InputShape(spec.in_chans, *spec.image_size),
            output=self._output,
            token_map=token_map,
            precision=precision.traced,
            io_dtype=torch.float32 if job.io_type is IoType.FP32 else TORCH_TYPES[precision.traced],
            batch=job.batch,
            opset=job.opset,
        )

    def _metadata(self, loaded: LoadedModel, report: Report) -> dict[str, Any]:
        """What travels inside the ONNX files: no times, no paths, so that equal runs write equal bytes."""
        versions = report.environment["versions"]
        return {
            "version": versions["tofu_export"],
            "model": loaded.resolved,
            "weights": loaded.weights,
            "num_classes": report.model["num_classes"],
            "prefix_tokens": report.model["prefix_tokens"],
            "plan": report.plan,
            "output": report.output,
            "preprocessing": loaded.preprocessing,
            "preprocessing_from": loaded.preprocessing_from,
            "target": self._job.target.value,
            "batch": str(self._job.batch),
            "versions": {name: versions[name] for name in ("torch", "timm", "onnx", "onnxscript")},
            **({"labels": list(self._job.labels)} if self._job.labels else {}),
        }

    def _publish(self, report: Report, benchmark_text: str) -> None:
        names = [file for entry in report.artifacts for file in with_data(self._stage, entry["path"])]
        self._stage.path("report.md").write_text(report.to_markdown(benchmark_text), encoding="utf-8")
        self._stage.path("report.json").write_text(report.to_json(), encoding="utf-8")
        names += write_page(report.to_dict(), self._stage, report.artifacts)
        self._stage.publish(*names, "report.md", "report.json")


def _feeds(inputs: InputSet, batch: int) -> dict[str, NDArray[Any]]:
    """A batch of float32 images by the name of the input, in turn where there are too few."""
    return {INPUT_NAME: inputs.pixels[np.arange(batch) % len(inputs)]}


def _gmacs(graph: ir.Model) -> float | None:
    """What a lowered graph computes for one image, in 10^9 multiply-accumulates."""
    macs: int | None = graph.meta[MACS]
    return None if macs is None else round(macs / 1e9, 4)


def _planned(loaded: LoadedModel, plan: Plan) -> str:
    if not plan.removes:
        return f"{loaded.resolved}: no token is removed, this is the plain model ({plan.gmacs_full:.2f} GMACs)"
    return (
        f"{loaded.resolved}, pattern {plan.pattern}: {plan.gmacs_full:.2f} GMACs become "
        f"{plan.gmacs_reduced:.2f}, {plan.flop_ratio:.2f}x fewer; token sizes: {sizes_words(plan.to_dict())}"
    )


def _shapes(graph: ir.Model) -> dict[str, list[int | str]]:
    """The shape of each output, by name; a dynamic batch is `batch`."""
    shapes: dict[str, list[int | str]] = {}
    for value in graph.graph.outputs:
        assert value.name is not None and value.shape is not None  # the tracer says both
        shapes[value.name] = [size if isinstance(size, int) else "batch" for size in value.shape]
    return shapes


def _model_entry(loaded: LoadedModel, spec: ModelSpec) -> dict[str, Any]:
    return {
        "name": loaded.name,
        "resolved": loaded.resolved,
        "weights": loaded.weights,
        "params": spec.params,
        "image_size": list(spec.image_size),
        "tokens": spec.tokens,
        "prefix_tokens": spec.prefix_tokens,
        "depth": spec.depth,
        "num_classes": spec.num_classes,
        "preprocessing": loaded.preprocessing,
        "preprocessing_from": loaded.preprocessing_from,
    }
