"""Run a UNet job, end to end: plan, patch, trace, lower, verify, build engines, measure, report."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tofu_export import environment
from tofu_export.diffusion.apply import apply_to_unet, remove_from_unet
from tofu_export.diffusion.describe import describe_unet
from tofu_export.diffusion.inputs import OUTPUT_NAME, UnetInputs
from tofu_export.diffusion.job import UnetJob
from tofu_export.diffusion.models import UnetSource, create_unet, find_unet, inputs_of
from tofu_export.diffusion.plan import UnetPlan, UnetSpec, make_unet_plan
from tofu_export.diffusion.report import UnetReport
from tofu_export.diffusion.trace import trace_unet
from tofu_export.diffusion.verify import verify_unet
from tofu_export.diffusion.weights import describe_weights
from tofu_export.engines.backends import open_contender
from tofu_export.engines.benchmark import Contender, run_benchmark
from tofu_export.engines.build import EngineRequest, build_engine
from tofu_export.engines.flavours import Flavour
from tofu_export.engines.trtexec_text import render
from tofu_export.errors import VerificationError
from tofu_export.export import TORCH_TYPES, in_precision, release, save
from tofu_export.files import Staging, staging
from tofu_export.graph_patterns.lowering import census, lower
from tofu_export.job import NOT_PUBLISHED, Clock, Listener
from tofu_export.job_engines import check_requests, engine_requests, flavour_of, why_no_engine
from tofu_export.job_files import describe_file, record_engine, with_data
from tofu_export.memory import give_back
from tofu_export.options import IoType, Precision
from tofu_export.ort import HALF_THROUGH_CASTS, NO_BFLOAT16
from tofu_export.widened import widened

__all__ = ["plan_unet", "run_unet_job"]

_FULL = "full"
"""Name of the unreduced UNet in reports."""
_FULL_FILE = "full.onnx"


def plan_unet(job: UnetJob) -> tuple[UnetSource, UnetInputs, UnetSpec, UnetPlan]:
    """What a job comes to, without weights.

    Raises:
        TofuError: the model is unknown or unsupported, or the options do not fit it.
    """
    source = find_unet(job.model, job.weights)
    inputs = inputs_of(source, job.latent, job.text_tokens)
    spec = describe_unet(create_unet(source, meta=True), inputs, source.name)
    return source, inputs, spec, make_unet_plan(spec, job.reduction)


def run_unet_job(job: UnetJob, listener: Listener) -> UnetReport:
    """Run `job` and write its files; nothing appears in the output folder before all of it is complete.

    Raises:
        TofuError: the first thing that went wrong. After a failed verification the report is on disk, no model is.
    """
    flavour = flavour_of(job)
    if flavour is not None:
        check_requests(job, flavour)
    listener.step(f"planning {job.model}")
    source, inputs, spec, plan = plan_unet(job)
    full, reduced = plan.macs_full / 1e9, plan.macs_reduced / 1e9
    listener.done(
        f"{spec.name} at latent {spec.latent}: {len(plan.reduced)} of {len(plan.blocks)} blocks reduced, "
        f"{full:.2f} GMACs become {reduced:.2f}, {full / reduced:.2f}x fewer"
    )
    with staging(job.output) as stage:
        return _Run(job, stage, listener, source, inputs, plan, _report(job, source, spec, inputs, plan)).run(flavour)


def _report(job: UnetJob, source: UnetSource, spec: UnetSpec, inputs: UnetInputs, plan: UnetPlan) -> UnetReport:
    model = {
        "name": job.model, "resolved": source.name, "weights": describe_weights(source.weights), "params": spec.params,
        "latent": [spec.latent.height, spec.latent.width], "text_tokens": spec.text_tokens,
        "text_channels": spec.text_channels, "transformer_blocks": len(spec.blocks),
    }  # fmt: skip
    shape: list[int | str] = ["batch", spec.out_channels, spec.latent.height, spec.latent.width]
    output = {
        "kind": "noise",
        "names": [OUTPUT_NAME],
        "shapes": {OUTPUT_NAME: shape},
        "inputs": {
            name: ["batch" if size is None else size for size in sizes] for name, sizes in inputs.shapes.items()
        },
    }
    return UnetReport(model, plan.to_dict(), output, job.command, environment.collect("diffusers"))


class _Run:
    """One job on its way: what every step reads and what it adds to the report."""

    def __init__(
        self,
        job: UnetJob,
        stage: Staging,
        listener: Listener,
        source: UnetSource,
        inputs: UnetInputs,
        plan: UnetPlan,
        report: UnetReport,
    ) -> None:
        self._job = job
        self._stage = stage
        self._listener = listener
        self._source = source
        self._inputs = inputs
        self._plan = plan
        self._report = report
        self._clock = Clock(listener, report.timings_s)

    def run(self, flavour: Flavour | None) -> UnetReport:
        with self._clock.timed("total"):
            has_full = self._export()
            give_back()
            benchmark_text = self._benchmark(has_full)
            self._build_engines(flavour)
        self._publish(benchmark_text)
        return self._report

    def _export(self) -> bool:
        """Write and verify the files; True if the full UNet is there to be measured against."""
        job = self._job
        with self._clock.step("load", f"loading {job.model}"):
            unet = create_unet(self._source, seed=job.seed)
        self._listener.done(f"{self._report.model['params'] / 1e6:.1f} M parameters")
        apply_to_unet(unet, self._plan, name=self._source.name)
        failures: list[VerificationError] = []
        for precision in job.precisions:
            self._export_one(unet, precision)
            failures += self._verify(unet, precision)
        if failures:
            self._report.artifacts.clear()
            self._publish("")
            raise failures[0]
        if not job.bench or Precision.FP32 not in job.precisions:
            return False
        with self._clock.step("export full", "exporting the full UNet, to measure against"):
            self._write(remove_from_unet(unet), _FULL_FILE, Precision.FP32, self._plan.macs_full)
        self._listener.done("the full UNet is ready to be measured against")
        return True

    def _export_one(self, unet: nn.Module, precision: Precision) -> None:
        job, name = self._job, self._job.onnx_name(precision)
        with self._clock.step(f"export {precision.value}", f"exporting {name}"):
            ops = self._write(unet, name, precision, self._plan.macs_reduced)
        entry = describe_file(self._stage, "onnx", precision, job.target.value, name)
        self._report.artifacts.append({**entry, "opset": job.opset, "nodes": sum(ops.values()), "ops": ops})
        self._listener.done(f"{name}: {sum(ops.values())} nodes, {entry['bytes'] / 1e6:.1f} MB")

    def _write(self, unet: nn.Module, name: str, precision: Precision, macs: int) -> dict[str, int]:
        """Trace, lower and save one file; its operators by number."""
        job = self._job
        graph = trace_unet(
            unet,
            self._inputs,
            precision=precision,
            io_dtype=torch.float32 if job.io_type is IoType.FP32 else TORCH_TYPES[precision],
            batch=job.batch,
            opset=job.opset,
        )
        graph = lower(graph, job.target, precision)
        ops = census(graph)
        metadata = {**self._metadata(), "precision": precision.value, "gmacs": round(macs / 1e9, 4)}
        save(graph, self._stage.path(name), metadata)
        release(graph)
        del graph
        give_back()
        return ops

    def _verify(self, unet: nn.Module, precision: Precision) -> list[VerificationError]:
        job, name = self._job, self._job.onnx_name(precision)
        if not job.verify:
            self._report.skip(f"verification of {name}", "switched off by --no-verify")
            return []
        path = self._stage.path(name)
        with (
            self._clock.step(f"verify {precision.value}", f"verifying {name} against eager PyTorch"),
            tempfile.TemporaryDirectory(dir=self._stage.folder) as folder,
        ):
            if precision is Precision.BF16:
                self._report.skip(f"arithmetic of {name} in bfloat16", f"{NO_BFLOAT16}: it was compared in float32")
                path = widened(path, Path(folder))
                unet = in_precision(unet, precision).float()
            result = verify_unet(
                path,
                unet,
                self._plan,
                self._inputs,
                precision=precision,
                batch=job.batch,
                seed=job.seed,
                on_batch=lambda size: self._listener.tick(f"batch {size}"),
            )
        give_back()
        self._report.verification.append(result.to_dict())
        self._listener.done(str(result))
        return [] if result.passed else [result.failure(NOT_PUBLISHED)]

    def _benchmark(self, has_full: bool) -> str:
        """Time the reduced against the full UNet; returns the result as text."""
        job = self._job
        if not job.bench:
            self._report.skip("benchmark", "not asked for: --bench")
            return ""
        for precision in job.precisions:
            if precision is not Precision.FP32:
                self._report.skip(f"benchmark of {job.onnx_name(precision)}", HALF_THROUGH_CASTS)
        if not has_full:
            return ""
        name = job.onnx_name(Precision.FP32)
        with self._clock.step("benchmark", "timing full against reduced in onnxruntime"):
            measurements = run_benchmark(
                [Contender(_FULL, self._stage.path(_FULL_FILE)), Contender(name, self._stage.path(name))],
                batches=job.bench_batches or (job.batch.optimum,),
                make_feeds=lambda batch: self._inputs.random(batch, job.seed),
                open_runner=open_contender,
                threads=job.threads,
                baseline=_FULL,
                on_progress=lambda at: self._listener.tick(f"batch {at.batch}, {at.phase}, {at.fraction:.0%}"),
            )
        self._report.benchmark = [row.to_dict() for row in measurements]
        text = render(measurements, baseline=_FULL)
        self._listener.done(text)
        return text

    def _build_engines(self, flavour: Flavour | None) -> None:
        if flavour is None:
            self._report.skip("engines", why_no_engine(self._job))
            return
        for precision in self._job.precisions:
            for request in engine_requests(self._job, flavour, precision, self._stage.folder):
                self._build_engine(request, precision)

    def _build_engine(self, request: EngineRequest, precision: Precision) -> None:
        with self._clock.step(f"engine {precision.value}", f"building {request.engine_path.name}"):
            receipt = build_engine(request, on_tick=lambda seconds: self._listener.tick(f"{seconds:.0f} s"))
            done = record_engine(receipt, request, precision, self._report, self._stage)
        self._listener.done(done)

    def _metadata(self) -> dict[str, Any]:
        """What travels inside the ONNX files: no times, no paths, so that equal runs write equal bytes."""
        versions = self._report.environment["versions"]
        return {
            "version": versions["tofu_export"],
            "model": self._report.model["resolved"],
            "weights": self._report.model["weights"],
            "unet_plan": self._report.plan,
            "target": self._job.target.value,
            "batch": str(self._job.batch),
            "versions": {name: versions[name] for name in ("torch", "onnx", "onnxscript")},
        }

    def _publish(self, benchmark_text: str) -> None:
        names = [file for entry in self._report.artifacts for file in with_data(self._stage, entry["path"])]
        self._stage.path("report.md").write_text(self._report.to_markdown(benchmark_text), encoding="utf-8")
        self._stage.path("report.json").write_text(self._report.to_json(), encoding="utf-8")
        self._stage.publish(*names, "report.md", "report.json")
