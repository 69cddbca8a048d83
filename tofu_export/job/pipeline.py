"""The steps of every export: trace, lower, verify, measure, build engines, report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Generic, TypeVar

from tofu_export.benchmarking.backends import open_contender
from tofu_export.benchmarking.benchmark import Contender, run_benchmark
from tofu_export.benchmarking.trtexec_text import render
from tofu_export.bundle import EngineFailure, bundle_engine_failure, check_folder
from tofu_export.engines.building.build import EngineRequest, build_engine, resolve_capabilities
from tofu_export.engines.flavours import TURING, Flavour
from tofu_export.errors import EngineBuildError, PrecisionMismatchError, VerificationError
from tofu_export.graph_patterns.lowering import census, lower
from tofu_export.graph_patterns.table import recipe_for
from tofu_export.job.adapter import ModelAdapter
from tofu_export.job.attention import OtherForms
from tofu_export.job.engines import (
    NOT_BUILT,
    check_requests,
    engine_names_of,
    engine_requests,
    flavour_of,
    verify_engines,
    why_no_engine,
)
from tofu_export.job.files import REPORTS, describe_file, record_engine, with_data
from tofu_export.job.page import write_page
from tofu_export.job.progress import Listener, Progress
from tofu_export.job.request import ExportJob
from tofu_export.options import Precision
from tofu_export.report.artifacts import OnnxFile
from tofu_export.report.document import FULL, Report
from tofu_export.system.files import Staging, staging
from tofu_export.system.memory import give_back, trim
from tofu_export.system.ort import HALF_THROUGH_CASTS
from tofu_export.system.typed_json import JsonObject
from tofu_export.trace.export import release, save
from tofu_export.trace.quantize import Calibration
from tofu_export.verification.bundling import bundle_failure
from tofu_export.verification.result import VerificationResult

__all__ = ["run_export"]

ReportT = TypeVar("ReportT", bound=Report)

_FULL_FILE = "full.onnx"
_DRAFT = "draft.onnx"
"""Name of the file that a quantised file is made from."""
_NOT_PUBLISHED = "The file was not published; --no-verify keeps it for a closer look"
_NOT_REAL = (
    "no --images DIR was given, so its ranges are those of generated ones: calibrate on images like those that it will "
    "see, or measure its accuracy on them"
)


def run_export(job: ExportJob, adapter: ModelAdapter[ReportT], listener: Listener) -> ReportT:
    """Export a model and write its files; nothing appears in the output folder before all of it is complete.

    Args:
        job: the export request.
        adapter: the model.
        listener: receives the progress.

    Raises:
        TofuError: a step failed. After a failed verification the report is on disk, but no model.
    """
    if job.bundle is not None:
        check_folder(job.bundle)
    flavour = flavour_of(job)
    if flavour is not None:
        check_requests(job, flavour)
    progress = Progress(listener)
    with staging(job.output) as stage:
        with progress.timed("total"):
            export = _Export(job, adapter, stage, progress)
            benchmark_text = export.run(flavour)
        export.publish(benchmark_text)
    return export.report


class _Export(Generic[ReportT]):
    """Export in progress: the files so far, and the report that the steps add to."""

    report: ReportT

    def __init__(self, job: ExportJob, adapter: ModelAdapter[ReportT], stage: Staging, progress: Progress) -> None:
        self._job = job
        self._adapter = adapter
        self._stage = stage
        self._progress = progress
        self._files: dict[Precision, str] = {}
        self._bundle = job.bundle

    def run(self, flavour: Flavour | None) -> str:
        """Run all steps; return the benchmark as text."""
        adapter = self._adapter
        self.report = adapter.load(self._progress)
        self.report.timings_s = self._progress.seconds
        self._stop_at([failure for precision in self._job.precisions for failure in self._export_one(precision)])
        full = self._export_full()
        adapter.release()
        give_back()
        runnable: dict[Precision, Path] = {
            key: self._stage.path(name) for key, name in self._files.items() if key is not Precision.BF16
        }
        adapter.inspect(runnable, full, self._stage, self._progress)
        benchmark_text = self._benchmark(full)
        self._build_engines(flavour)
        return benchmark_text

    def publish(self, benchmark_text: str) -> None:
        """Write the report in its three forms, and move all files to the output folder."""
        report, stage = self.report, self._stage
        names = [file for entry in report.artifacts for file in with_data(stage, entry.path)]
        stage.path("report.md").write_text(report.to_markdown(benchmark_text), encoding="utf-8")
        stage.path("report.json").write_text(report.to_json(), encoding="utf-8")
        names += write_page(report, stage)
        stage.publish(*names, *REPORTS)

    def _stop_at(self, failures: Sequence[VerificationError]) -> None:
        """Publish the report without a model, if anything is wrong.

        Raises:
            VerificationError: the first failure.
        """
        if failures:
            self.report.artifacts = ()
            self._files.clear()
            self.publish("")
            raise failures[0]

    def _export_one(self, precision: Precision) -> list[VerificationError]:
        """Write and verify the file of one precision; return what is wrong with it."""
        job, name = self._job, self._job.onnx_name(precision)
        calibration = None
        with self._progress.step(f"export {precision.value}", f"exporting {name}"):
            if precision.calibrated:
                ops, gmacs = self._write(_DRAFT, precision, reduced=True)
                calibration = self._quantize(name, precision, gmacs)
                ops = dict(calibration.ops)
            else:
                ops, gmacs = self._write(name, precision, reduced=True)
        self._files[precision] = name
        file = OnnxFile(
            kind="onnx",
            **describe_file(self._stage, precision, job.target.value, name),
            opset=job.opset_of(precision),
            gmacs=gmacs,
            nodes=sum(ops.values()),
            ops=ops,
            attention=job.attention_of(precision),
            calibration=None if calibration is None else calibration.entry(),
        )
        text = f"{name}: {file.nodes} nodes, {file.bytes / 1e6:.1f} MB"
        if calibration is not None:
            text += f", {calibration}"
            if not calibration.real:
                self.report.skip(f"calibration of {name} on real images", _NOT_REAL)
        self.report.artifacts += (file,)
        self._progress.done(text)
        return self._verify(name, precision)

    def _write(self, name: str, precision: Precision, *, reduced: bool) -> tuple[dict[str, int], float | None]:
        """Trace, lower and save one file; return its operator counts, and its GMACs for one image."""
        graph = self._adapter.trace(precision, reduced=reduced)
        recipe = recipe_for(self._job.target, precision, self._job.attention)
        graph = lower(graph, self._job.target, precision.traced, recipe)
        ops, gmacs = census(graph), self._adapter.gmacs(graph, reduced=reduced)
        metadata = self._metadata(precision, gmacs) if reduced else {"gmacs": gmacs}
        save(graph, self._stage.path(name), metadata)
        release(graph)
        del graph
        give_back()  # the exporter's objects form cycles that hold a half-precision copy of the model
        return ops, gmacs

    def _metadata(self, precision: Precision, gmacs: float | None) -> JsonObject:
        own: JsonObject = {"precision": precision.value, "gmacs": gmacs}
        if form := self._job.attention_of(precision):
            own["attention"] = form.value
        return {**self._adapter.metadata(), **own}

    def _quantize(self, name: str, precision: Precision, gmacs: float | None) -> Calibration:
        """Quantise the draft into its final file, and delete the draft."""
        self._progress.tick(f"calibrating {precision.value}")
        draft, metadata = self._stage.path(_DRAFT), self._metadata(precision, gmacs)
        calibration = self._adapter.quantize(draft, self._stage.path(name), precision, metadata)
        for path in (draft, draft.with_name(f"{_DRAFT}.data")):
            path.unlink(missing_ok=True)
        return calibration

    def _verify(self, name: str, precision: Precision) -> list[VerificationError]:
        if not self._job.verify:
            self.report.skip(f"verification of {name}", "switched off by --no-verify")
            return []
        path = self._stage.path(name)

        def compare(*, layers: bool) -> VerificationResult:
            return self._adapter.verify(
                path, precision, layers=layers, on_batch=lambda size: self._progress.tick(f"batch {size}")
            )

        with self._progress.step(f"verify {precision.value}", f"verifying {name} against eager PyTorch"):
            result = compare(layers=False)
            if not result.passed and self._bundle is not None:
                result = compare(layers=True)  # for the bundle: where it begins
        trim()
        self.report.verification += (result.entry(),)
        self._progress.done(str(result))
        if result.passed:
            return []
        failure = result.failure(_NOT_PUBLISHED)
        if self._bundle is not None:
            failure = bundle_failure(self._bundle, path, failure, self.report.to_dict(), result)
            self._bundle = None  # of several wrong files, the first one is bundled
        return [failure]

    def _timed(self) -> list[str]:
        """Names of the files that are worth timing on a CPU."""
        return [name for precision, name in self._files.items() if precision.runs_on_cpus]

    def _export_full(self) -> Path | None:
        """Write the unreduced model as the baseline; None if nothing would use it."""
        if not self._timed() or not (self._job.bench or self._adapter.measures_accuracy):
            return None
        with self._progress.step("export full", "exporting the full model, to measure against"):
            self._write(_FULL_FILE, Precision.FP32, reduced=False)
        self._progress.done("the full model is ready to be measured against")
        return self._stage.path(_FULL_FILE)

    def _benchmark(self, full: Path | None) -> str:
        """Time the reduced against the full model; return the result as text."""
        job, report = self._job, self.report
        if not job.bench:
            report.skip("benchmark", "switched off by --no-bench")
            return ""
        for precision, name in self._files.items():
            if not precision.runs_on_cpus:
                report.skip(f"benchmark of {name}", f"{HALF_THROUGH_CASTS}: its time would say nothing about a GPU")
        if full is None:
            return ""
        with self._progress.step("benchmark", "timing full against reduced in onnxruntime"):
            measurements = run_benchmark(
                [Contender(FULL, full), *(Contender(name, self._stage.path(name)) for name in self._timed())],
                batches=job.bench_batches or (job.batch.optimum,),
                make_feeds=self._adapter.feeds,
                open_runner=open_contender,
                threads=job.threads,
                baseline=FULL,
                on_progress=lambda at: self._progress.tick(f"batch {at.batch}, {at.phase}, {at.fraction:.0%}"),
            )
        report.benchmark = tuple(row.rounded() for row in measurements)
        text = render(measurements, baseline=FULL)
        self._progress.done(text)
        return text

    def _build_engines(self, flavour: Flavour | None) -> None:
        """Build an engine and sidecar for each ONNX file, and verify those that can run here."""
        job = self._job
        if flavour is None:
            self.report.skip("engines", why_no_engine(job))
            return
        engines: list[str] = []
        others = OtherForms(job, self._stage, self.report, self._build_engine)
        for precision, onnx_name in self._files.items():
            if not precision.built:
                self.report.skip(f"engine of {onnx_name}", NOT_BUILT)
                continue
            requests = engine_requests(job, flavour, precision, self._stage.folder)
            if len(requests) < len(engine_names_of(job, flavour, precision)):
                self.report.skip(f"{TURING} engine of {onnx_name}", f"{TURING} runs FP16 and int8-fp16 files only")
            for request in requests:
                self._build_engine(request, precision)
                others.add(request, precision)
                engines.append(request.engine_path.name)
        if not job.verify:
            for name in engines:
                self.report.skip(f"verification of {name}", "switched off by --no-verify")
            return
        results = verify_engines(self._adapter, self._stage.folder, engines, self.report, self._progress, others)
        self._stop_at([result.failure(_NOT_PUBLISHED) for result in results if not result.passed])

    def _build_engine(self, request: EngineRequest, precision: Precision) -> None:
        with self._progress.step(f"engine {precision.value}", f"building {request.engine_path.name}"):
            try:
                receipt = build_engine(request, on_tick=lambda seconds: self._progress.tick(f"{seconds:.0f} s"))
            except (EngineBuildError, PrecisionMismatchError) as error:
                if self._bundle is None:
                    raise
                wanted = EngineFailure(request.flavour.name, self._job.batch, resolve_capabilities(request))
                feeds = self._adapter.feeds(self._job.batch.optimum)
                raise bundle_engine_failure(
                    self._bundle, request.onnx_path, error, self.report.to_dict(), wanted, feeds
                ) from error
            text = record_engine(receipt, request, precision, self.report, self._stage)
        self._progress.done(text)
