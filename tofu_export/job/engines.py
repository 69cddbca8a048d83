"""Engines of a job: which TensorRT, which files, which GPUs, and their verification."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tofu_export.engines.building.build import EngineRequest, engine_names, resolve_capabilities
from tofu_export.engines.building.capabilities import able
from tofu_export.engines.describing.check import Answer, check_engine
from tofu_export.engines.flavours import RTX, TENSORRT, TURING, Flavour, available, pick
from tofu_export.errors import BackendMissingError, EngineBuildError, OptionError, PrecisionMismatchError
from tofu_export.job.adapter import ModelAdapter
from tofu_export.job.attention import OtherForms
from tofu_export.job.progress import Progress
from tofu_export.job.request import ExportJob
from tofu_export.options import Precision, Target
from tofu_export.report.document import Report
from tofu_export.verification.result import VerificationResult

NOT_BUILT = (
    "int8 files are for CPUs: what is not int8 in them is FP32, slower on a GPU than FP16. For engines there is "
    "--precision int8-fp16, or fp8 from SM89 on"
)
"""Why int8 files have no engine."""

__all__ = [
    "NOT_BUILT",
    "check_requests",
    "engine_names_of",
    "engine_requests",
    "flavour_of",
    "planned_engines",
    "verify_engines",
    "why_no_engine",
]


def flavour_of(job: ExportJob) -> Flavour | None:
    """Return the TensorRT to build with, or None for no engines.

    Raises:
        BackendMissingError: engines were asked for and none can be built.
    """
    wanted = _wanted(job)
    if job.engine:
        return pick(wanted)
    if job.engine is False or job.target is Target.ONNXRUNTIME or not _is_for_engines(job):
        return None
    return next((flavour for flavour in available() if wanted in (None, flavour.name)), None)


def _wanted(job: ExportJob) -> str | None:
    """Return the name of the only TensorRT that the files of a job are for; None for any."""
    return job.flavour or (job.target.value if job.target.value in (RTX.name, TENSORRT.name) else None)


def engine_names_of(job: ExportJob, flavour: Flavour, precision: Precision) -> dict[str, tuple[str, ...]]:
    """Return the engine names of one precision, and the compute capabilities of each."""
    return engine_names(f"model.{precision.value}.{flavour.name}.engine", job.compute_capabilities)


def engine_requests(job: ExportJob, flavour: Flavour, precision: Precision, folder: Path) -> list[EngineRequest]:
    """Return the engines to build of one precision; SM75 beside others is left out if it cannot run that precision.

    There are none for a precision that is meant for CPUs.
    """
    if not precision.built:
        return []
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
        if len(named) == 1 or TURING not in capabilities or able(TURING, precision)
    ]


def check_requests(job: ExportJob, flavour: Flavour) -> None:
    """Check before the export that the engines can be built.

    Raises:
        TofuError: as in `resolve_capabilities`.
    """
    for precision in job.precisions:
        for request in engine_requests(job, flavour, precision, job.output):
            resolve_capabilities(request)


def planned_engines(job: ExportJob) -> tuple[str, ...]:
    """Return the names of the engines that a job builds; empty for none.

    Raises:
        TofuError: as in `flavour_of` and `check_requests`.
    """
    flavour = flavour_of(job)
    if flavour is None:
        return ()
    check_requests(job, flavour)
    requests = [engine_requests(job, flavour, precision, job.output) for precision in job.precisions]
    return tuple(request.engine_path.name for of_precision in requests for request in of_precision)


def why_no_engine(job: ExportJob) -> str:
    """Return why a job builds no engines, for its report."""
    if job.engine is False:
        return "switched off by --no-engine"
    if job.target is Target.ONNXRUNTIME:
        return "files for onnxruntime use scatter reductions, which TensorRT rejects: use --target portable"
    if not _is_for_engines(job):
        return NOT_BUILT
    if usable := available():
        return (
            f"{_wanted(job)}, which the files are for, is not installed or cannot run here, but {usable[0].name} is: "
            f"use --target {usable[0].name} or portable"
        )
    return "no TensorRT is installed: pip install 'tofu-export[rtx]' builds engines without a GPU"


def verify_engines(
    adapter: ModelAdapter[Report],
    folder: Path,
    names: Sequence[str],
    report: Report,
    progress: Progress,
    others: OtherForms | None = None,
) -> list[VerificationResult]:
    """Run engines if possible here, and compare each with all available references.

    A wrong half-precision engine is rebuilt with its attention in other forms; the first that passes replaces it.

    Args:
        adapter: the model.
        folder: folder of the engines, with their ONNX files and sidecars.
        names: names of the engines.
        report: receives the results, or why there are none.
        progress: progress of the job.
        others: rebuilds engines with attention in other forms; None not to rebuild.

    Raises:
        TofuError: an engine that should run here fails.
    """
    found: list[VerificationResult] = []
    for name in names:
        path = folder / name
        reason = _why_not_here(report, path)
        if reason is None:
            try:
                with progress.step(f"verify {name}", f"verifying {name}"):
                    results = adapter.verify_engine(path, progress.tick)
                if others is not None and not _passed(results):
                    results = _other_form(adapter, path, results, others, report, progress) or results
            except BackendMissingError as error:
                reason = str(error)
        if reason is not None:
            report.skip(f"verification of {name}", reason)
            continue
        report.verification += tuple(result.entry() for result in results)
        progress.done("; ".join(f"against {result.reference}: {result}" for result in results))
        found += results
    return found


def _other_form(
    adapter: ModelAdapter[Report],
    engine: Path,
    wrong: Sequence[VerificationResult],
    others: OtherForms,
    report: Report,
    progress: Progress,
) -> tuple[VerificationResult, ...]:
    """Return the results of a wrong engine in the first other attention form that passes; empty if none does."""
    asked = others.job.attention.value
    what = next(result for result in wrong if not result.passed)
    for form in others.forms_of(engine.name):
        progress.done(f"{engine.name} is wrong with --attention {asked}: {what}; trying --attention {form.value}")
        try:
            if not others.rebuild(engine.name, form):
                return ()
            with progress.step(f"verify {engine.name}", f"verifying {engine.name} with --attention {form.value}"):
                results = adapter.verify_engine(engine, progress.tick)
        except (EngineBuildError, OptionError, PrecisionMismatchError) as error:
            others.drop(form, engine.name)
            report.skip(f"--attention {form.value} in {engine.name}", str(error))
            continue
        if _passed(results):
            report.skip(
                f"--attention {asked} in {engine.name}",
                f"wrong against {what.reference} ({what}); with --attention {form.value} it passes, and that is kept",
            )
            return results
        others.drop(form, engine.name)
    return ()


def _passed(results: Sequence[VerificationResult]) -> bool:
    return all(result.passed for result in results)


def _is_for_engines(job: ExportJob) -> bool:
    return any(precision.built for precision in job.precisions)


def _why_not_here(report: Report, engine: Path) -> str | None:
    """Return why an engine cannot run here; None if it can."""
    if report.environment.gpu is None:
        return "no NVIDIA GPU with a driver to run it on"
    verdicts = check_engine(engine).verdicts
    return next((entry.reason for entry in verdicts if entry.answer in (Answer.NO, Answer.MISSING)), None)
