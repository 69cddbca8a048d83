"""Backends that can run a contender of a benchmark, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy.typing as npt

from tofu_export.artifact.feeds import as_asked
from tofu_export.benchmarking.benchmark import Bound, Contender, Feeds
from tofu_export.benchmarking.options import CPU, ORT_BACKENDS, PLAN_BACKENDS, TORCH_BACKENDS
from tofu_export.benchmarking.plan_timing import TimedPlan
from tofu_export.engines.running.cudart import open_cudart
from tofu_export.engines.running.engine_session import open_engine
from tofu_export.engines.running.gpu_times import GpuOptions
from tofu_export.errors import OptionError
from tofu_export.options import PLAN_SUFFIXES
from tofu_export.system import environment
from tofu_export.system.ort import CPU_PROVIDER, TensorSpec, open_session

__all__ = [
    "BACKENDS",
    "FileSession",
    "Loaded",
    "LoadedFile",
    "Session",
    "is_model_name",
    "open_backend",
    "open_contender",
    "suits",
]

BACKENDS: Mapping[str, str] = MappingProxyType(
    dict(zip(ORT_BACKENDS, (CPU_PROVIDER, "CUDAExecutionProvider", "TensorrtExecutionProvider"), strict=True))
)
"""Execution providers of onnxruntime, by name on the command line and in reports."""


class Session(Protocol):
    """Loaded contender (`OrtSession`, `EngineSession`, `torch_contenders.EagerSession`)."""

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """Inputs of `run`, by name."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """Metadata of the file."""

    def run(self, feeds: Feeds) -> Mapping[str, npt.NDArray[Any]]:
        """Run the contender and return all outputs by name."""

    def bind(self, feeds: Feeds) -> Callable[[], object] | Bound:
        """Return a function that runs the contender on these feeds."""


class FileSession(Session, Protocol):
    """Session that knows its outputs before it runs."""

    @property
    def label(self) -> str:
        """Name in messages."""

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """Outputs of `run`, by name."""


@dataclass(frozen=True)
class Loaded:
    """Contender that is loaded where it runs.

    Attributes:
        session: the file, in onnxruntime, TensorRT or PyTorch.
        device: the hardware that runs it.
    """

    session: Session
    device: str

    def bind(self, feeds: Feeds) -> Callable[[], object] | Bound:
        """Return a function that runs the file, with inputs from and outputs to the host's memory.

        Floating-point feeds are converted to the type that the file needs, outside of the call.
        """
        return self.session.bind(as_asked(feeds, self.session.inputs))


@dataclass(frozen=True)
class LoadedFile(Loaded):
    """ONNX file or engine that is loaded where it runs."""

    session: FileSession


def suits(path: Path, backend: str) -> bool:
    """True if a backend runs this: engines are known by suffix, timm models by name, everything else is ONNX."""
    if is_model_name(path):
        return backend in TORCH_BACKENDS
    return (path.suffix in PLAN_SUFFIXES) is (backend in PLAN_BACKENDS)


def is_model_name(path: Path) -> bool:
    """True if the text can only be a name of timm's, such as `vit_base` or `vit_base_patch16_224.mae`, not a file."""
    return not path.exists() and len(path.parts) == 1 and path.suffix not in (".onnx", *PLAN_SUFFIXES)


def open_backend(path: Path, backend: str, threads: int | None, gpu: GpuOptions | None = None) -> LoadedFile:
    """Load a file on a backend.

    Args:
        path: an ONNX file, or an engine.
        backend: name of the backend.
        threads: threads inside an operator on a CPU; None for the default.
        gpu: how an engine is timed.

    Raises:
        OptionError: the backend is unknown.
        ExportError: the ONNX file cannot be loaded.
        EngineBuildError: the engine cannot be loaded.
        BackendMissingError: the backend is not installed, or does not start here.
    """
    if backend in PLAN_BACKENDS:
        engine = open_engine(path, PLAN_BACKENDS[backend])
        return LoadedFile(TimedPlan(engine, gpu or GpuOptions(), open_cudart()), engine.device)
    if backend not in BACKENDS:
        raise OptionError(f"unknown backend {backend!r}, expected one of {', '.join((*BACKENDS, *PLAN_BACKENDS))}")
    # Idle threads of one session would spin on the cores that the next contender needs.
    session = open_session(path, provider=BACKENDS[backend], threads=threads, share_cores=True)
    device = environment.cpu_name() if backend == CPU else environment.collect().gpu or "unknown GPU"
    return LoadedFile(session, device)


def open_contender(contender: Contender, threads: int | None) -> Loaded:
    """Load a contender of a benchmark on its backend.

    Raises:
        TofuError: as in `open_backend`.
    """
    return open_backend(contender.path, contender.backend, threads)
