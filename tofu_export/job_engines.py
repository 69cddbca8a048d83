"""The engines that a job asks for: which TensorRT, which files, for which GPUs, and whether they are right."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

from tofu_export.engine_verification import verify_engine
from tofu_export.engines.build import EngineRequest, engine_names, resolve_capabilities
from tofu_export.engines.check import Answer, check_engine
from tofu_export.engines.flavours import RTX, TENSORRT, TURING, Flavour, available, pick
from tofu_export.errors import BackendMissingError, VerificationError
from tofu_export.job import NOT_PUBLISHED, Job, Listener
from tofu_export.options import BatchRange, Precision, Target
from tofu_export.report import Report
from tofu_export.verify import VerifyRequest

__all__ = [
    "EngineJob",
    "check_requests",
    "engine_names_of",
    "engine_requests",
    "flavour_of",
    "verify_engines",
    "why_no_engine",
]


class EngineJob(Protocol):
    """What a job says about its engines; see `Job`."""

    @property
    def target(self) -> Target:
        """Runtime that the ONNX files are written for."""
        ...

    @property
    def batch(self) -> BatchRange:
        """Batch sizes to serve."""
        ...

    @property
    def engine(self) -> bool | None:
        """Build engines: yes, no, or None for "if a TensorRT is installed"."""
        ...

    @property
    def flavour(self) -> str | None:
        """Which TensorRT."""
        ...

    @property
    def compute_capabilities(self) -> tuple[str, ...]:
        """What engines run on."""
        ...

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """One ONNX file for each."""
        ...

    @property
    def output(self) -> Path:
        """Folder for the files."""
        ...

    def onnx_name(self, precision: Precision) -> str:
        """Name of the ONNX file of a precision."""
        ...


def flavour_of(job: EngineJob) -> Flavour | None:
    """The TensorRT to build with, None for no engines.

    Raises:
        BackendMissingError: engines were asked for and none can be built.
    """
    names = {RTX.name, TENSORRT.name}
    wanted = job.flavour or (job.target.value if job.target.value in names else None)
    if job.engine:
        return pick(wanted)
    usable = [flavour for flavour in available() if wanted in (None, flavour.name)]
    return usable[0] if job.engine is None and usable and job.target is not Target.ONNXRUNTIME else None


def engine_names_of(job: EngineJob, flavour: Flavour, precision: Precision) -> dict[str, tuple[str, ...]]:
    """Names of the engines of one precision, and the compute capabilities of each."""
    return engine_names(f"model.{precision.value}.{flavour.name}.engine", job.compute_capabilities)


def engine_requests(job: EngineJob, flavour: Flavour, precision: Precision, folder: Path) -> list[EngineRequest]:
    """The engines to build of one precision; SM75 beside others is left out where it cannot run that precision."""
    named = engine_names_of(job, flavour, precision)
    return [
        EngineRequest(
            onnx_path=folder / job.onnx_name(precision),
            engine_path=folder / name,
            flavour=flavour,
            batch=job.batch,
            precision=precision,
            compute_capabilities=capabilities,
        )
        for name, capabilities in named.items()
        if len(named) == 1 or TURING not in capabilities or precision is Precision.FP16
    ]


def check_requests(job: EngineJob, flavour: Flavour) -> None:
    """Say before the work what engines cannot be built for.

    Raises:
        TofuError: as `resolve_capabilities`.
    """
    for precision in job.precisions:
        for request in engine_requests(job, flavour, precision, job.output):
            resolve_capabilities(request)


def why_no_engine(job: EngineJob) -> str:
    """Why a job builds no engines, for its report."""
    if job.engine is False:
        return "switched off by --no-engine"
    if job.target is Target.ONNXRUNTIME:
        return "files for onnxruntime use scatter reductions, which TensorRT rejects: use --target portable"
    return "no TensorRT is installed: pip install 'tofu-export[rtx]' builds engines without a GPU"


def verify_engines(job: Job, folder: Path, report: Report, listener: Listener) -> list[VerificationError]:
    """Run the engines of a job where they can be run, and compare each with the eager model and with its ONNX file.

    Args:
        job: what was asked for.
        folder: where the engines are, with their ONNX files and sidecars.
        report: says which engines there are; takes the results, or why there are none.
        listener: is told what is compared.

    Returns:
        What is wrong with them.

    Raises:
        TofuError: an engine that should run here does not.
    """
    failures: list[VerificationError] = []
    for name in [entry["path"] for entry in report.artifacts if entry["kind"] == "engine"]:
        path = folder / name
        reason = _why_not_verified(job, report, path)
        if reason is None:
            start = time.perf_counter()
            listener.step(f"verifying {name}")
            request = VerifyRequest(path, job.model, job.weights, job.seed, job.num_classes, images=job.images)
            try:
                results = verify_engine(request, listener.tick)
            except BackendMissingError as error:
                reason = str(error)
        if reason is not None:
            report.skip(f"verification of {name}", reason)
            continue
        report.timings_s[f"verify {name}"] = round(time.perf_counter() - start, 2)
        report.verification += [result.to_dict() for result in results]
        listener.done("; ".join(f"against {result.reference}: {result}" for result in results))
        failures += [result.failure(NOT_PUBLISHED) for result in results if not result.passed]
    return failures


def _why_not_verified(job: Job, report: Report, engine: Path) -> str | None:
    """Why an engine that was built cannot be verified here; None if it can."""
    if not job.verify:
        return "switched off by --no-verify"
    if report.environment.get("gpu") is None:
        return "no NVIDIA GPU with a driver to run it on"
    verdicts = check_engine(engine).verdicts
    return next((entry.reason for entry in verdicts if entry.answer in (Answer.NO, Answer.MISSING)), None)
