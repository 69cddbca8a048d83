"""The engines that a job asks for: which TensorRT, which files, for which GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from tofu_export.engines.build import EngineRequest, engine_names
from tofu_export.engines.flavours import RTX, TENSORRT, TURING, Flavour, available, pick
from tofu_export.options import BatchRange, Precision, Target

__all__ = ["EngineJob", "engine_names_of", "engine_requests", "flavour_of", "why_no_engine"]


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


def why_no_engine(job: EngineJob) -> str:
    """Why a job builds no engines, for its report."""
    if job.engine is False:
        return "switched off by --no-engine"
    if job.target is Target.ONNXRUNTIME:
        return "files for onnxruntime use scatter reductions, which TensorRT rejects: use --target portable"
    return "no TensorRT is installed: pip install 'tofu-export[rtx]' builds engines without a GPU"
