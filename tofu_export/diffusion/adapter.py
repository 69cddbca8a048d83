"""Export of diffusers UNets: the adapter, and its job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import nn

from tofu_export.diffusion.apply import apply_to_unet, remove_from_unet
from tofu_export.diffusion.describe import describe_unet
from tofu_export.diffusion.inputs import OUTPUT_NAME, UnetInputs
from tofu_export.diffusion.job import UnetJob
from tofu_export.diffusion.models import UnetSource, create_unet, find_unet, inputs_of
from tofu_export.diffusion.plan import UnetPlan, UnetSpec, make_unet_plan
from tofu_export.diffusion.trace import trace_unet
from tofu_export.diffusion.verify import verify_unet
from tofu_export.diffusion.weights import describe_weights
from tofu_export.engines.describing.engine_file import read_engine_file
from tofu_export.job.pipeline import run_export
from tofu_export.job.progress import Listener, Progress
from tofu_export.options import IoType, Precision
from tofu_export.report.document import UnetReport
from tofu_export.report.model import OutputEntry
from tofu_export.report.unet import UnetModelEntry
from tofu_export.system import environment
from tofu_export.system.files import Staging
from tofu_export.system.typed_json import JsonObject, to_plain
from tofu_export.trace.export import TORCH_TYPES
from tofu_export.trace.quantize import Calibration
from tofu_export.verification.engines import EngineVerification, tolerated
from tofu_export.verification.result import VerificationResult

__all__ = ["UnetAdapter", "plan_unet", "run_unet_job"]


def run_unet_job(job: UnetJob, listener: Listener) -> UnetReport:
    """Export a UNet and write its files; see `tofu_export.job.pipeline.run_export`."""
    return run_export(job, UnetAdapter(job), listener)


def plan_unet(job: UnetJob) -> tuple[UnetSource, UnetInputs, UnetSpec, UnetPlan]:
    """Plan the reduction of a UNet, without weights.

    Raises:
        TofuError: the model is unknown or unsupported, or the options do not fit it.
    """
    source = find_unet(job.model, job.weights)
    inputs = inputs_of(source, job.latent, job.text_tokens)
    spec = describe_unet(create_unet(source, meta=True), inputs, source.name)
    return source, inputs, spec, make_unet_plan(spec, job.reduction)


class UnetAdapter:
    """Adapter of a diffusers UNet (`tofu_export.job.adapter.ModelAdapter`).

    Args:
        job: the export request.
    """

    measures_accuracy = False

    _source: UnetSource
    _unet: nn.Module
    _inputs: UnetInputs
    _plan: UnetPlan
    _report: UnetReport

    def __init__(self, job: UnetJob) -> None:
        self._job = job

    def load(self, progress: Progress) -> UnetReport:
        """Plan the reduction, load the UNet, and apply the plan."""
        job = self._job
        with progress.step("plan", f"planning {job.model}"):
            self._source, self._inputs, spec, self._plan = plan_unet(job)
        full, reduced = self._plan.macs_full / 1e9, self._plan.macs_reduced / 1e9
        progress.done(
            f"{spec.name} at latent {spec.latent}: {len(self._plan.reduced)} of {len(self._plan.blocks)} blocks "
            f"reduced, {full:.2f} GMACs become {reduced:.2f}, {full / reduced:.2f}x fewer"
        )
        with progress.step("load", f"loading {job.model}"):
            self._unet = create_unet(self._source, seed=job.seed)
            apply_to_unet(self._unet, self._plan, name=self._source.name)
        progress.done(f"{spec.params / 1e6:.1f} M parameters")
        self._report = _report(job, self._source, spec, self._inputs, self._plan)
        return self._report

    def trace(self, precision: Precision, *, reduced: bool) -> ir.Model:
        """Return the canonical graph; for the plain UNet this takes the plan off."""
        job = self._job
        return trace_unet(
            self._unet if reduced else remove_from_unet(self._unet),
            self._inputs,
            precision=precision,
            io_dtype=torch.float32 if job.io_type is IoType.FP32 else TORCH_TYPES[precision],
            batch=job.batch,
            opset=job.opset,
        )

    def gmacs(self, graph: ir.Model, *, reduced: bool) -> float:
        """Return the planned multiply-accumulates for one image, in 10^9."""
        return round((self._plan.macs_reduced if reduced else self._plan.macs_full) / 1e9, 4)

    def metadata(self) -> JsonObject:
        """Return all metadata needed to use and compare a file without the job."""
        versions = self._report.environment.versions
        return {
            "version": versions["tofu_export"],
            "model": self._report.model.resolved,
            "weights": to_plain(self._report.model.weights),
            "unet_plan": to_plain(self._report.plan),
            "target": self._job.target.value,
            "batch": str(self._job.batch),
            "versions": {name: versions[name] for name in ("torch", "onnx", "onnxscript")},
        }

    def quantize(self, draft: Path, path: Path, precision: Precision, metadata: Mapping[str, Any]) -> Calibration:
        """Do nothing: never called, as a UNet has no quantised precision (`UnetJob`)."""
        raise NotImplementedError

    def verify(
        self, path: Path, precision: Precision, *, layers: bool, on_batch: Callable[[int], None]
    ) -> VerificationResult:
        """Compare a file with the eager UNet on seeded inputs; a BF16 file is computed in FP32."""
        return verify_unet(
            path, self._unet, self._plan, self._inputs, precision=precision, batch=self._job.batch,
            seed=self._job.seed, on_batch=on_batch,
        )  # fmt: skip

    def release(self) -> None:
        """Release the UNet."""
        del self._unet

    def inspect(self, files: Mapping[Precision, Path], full: Path | None, stage: Staging, progress: Progress) -> None:
        """Do nothing: a UNet has only outputs and times."""

    def feeds(self, batch: int) -> dict[str, NDArray[Any]]:
        """Return seeded latents, noise level and text."""
        return self._inputs.random(batch, self._job.seed)

    def verify_engine(self, path: Path, on_step: Callable[[str], None]) -> tuple[VerificationResult, ...]:
        """Compare an engine with the eager UNet, which is loaded again."""
        engine_file = read_engine_file(path)
        on_step(f"loading {path.name}")
        with EngineVerification(engine_file, on_step=on_step) as engine:
            unet = apply_to_unet(create_unet(self._source, seed=self._job.seed), self._plan, name=self._source.name)
            result = verify_unet(
                engine, unet, self._plan, self._inputs,
                precision=tolerated(engine_file.precision or Precision.FP32), batch=self._job.batch,
                seed=self._job.seed, on_batch=lambda size: on_step(f"batch {size}"),
            )  # fmt: skip
        return (result,)


def _report(job: UnetJob, source: UnetSource, spec: UnetSpec, inputs: UnetInputs, plan: UnetPlan) -> UnetReport:
    return UnetReport(
        model=UnetModelEntry(
            name=job.model,
            resolved=source.name,
            weights=describe_weights(source.weights),
            params=spec.params,
            latent=(spec.latent.height, spec.latent.width),
            text_tokens=spec.text_tokens,
            text_channels=spec.text_channels,
            transformer_blocks=len(spec.blocks),
        ),
        plan=plan.entry(),
        output=OutputEntry(
            kind="noise",
            names=(OUTPUT_NAME,),
            shapes={OUTPUT_NAME: ("batch", spec.out_channels, spec.latent.height, spec.latent.width)},
            inputs={
                name: tuple("batch" if size is None else size for size in sizes)
                for name, sizes in inputs.shapes.items()
            },
        ),
        command=job.command,
        environment=environment.collect("diffusers"),
    )
