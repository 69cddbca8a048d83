"""What can run a contender of a benchmark, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from tofu_export import environment
from tofu_export.engines.benchmark import Contender, Feeds
from tofu_export.engines.engine_session import EngineSession, open_engine
from tofu_export.engines.feeds import as_asked
from tofu_export.engines.flavours import RTX, TENSORRT, Flavour
from tofu_export.errors import OptionError
from tofu_export.ort import CPU_PROVIDER, OrtSession, open_session

__all__ = [
    "BACKENDS",
    "CPU",
    "PLAN_BACKENDS",
    "PLAN_SUFFIXES",
    "Loaded",
    "open_backend",
    "open_contender",
    "parse_backends",
    "suits",
]

CPU = "ort-cpu"

BACKENDS: Mapping[str, str] = MappingProxyType(
    {CPU: CPU_PROVIDER, "ort-cuda": "CUDAExecutionProvider", "ort-tensorrt": "TensorrtExecutionProvider"}
)
"""Name on the command line and in reports -> execution provider of onnxruntime."""


PLAN_BACKENDS: Mapping[str, Flavour] = MappingProxyType({"trt": TENSORRT, "trt-rtx": RTX})
"""Name on the command line and in reports -> the TensorRT that runs plans."""

PLAN_SUFFIXES = (".engine", ".plan", ".trt")
"""Names of plans end so."""


@dataclass(frozen=True)
class Loaded:
    """A file that is loaded where it runs.

    Attributes:
        session: the file, in onnxruntime or TensorRT.
        device: the hardware that runs it.
    """

    session: OrtSession | EngineSession
    device: str

    def bind(self, feeds: Feeds) -> Callable[[], object]:
        """A call that runs the file: inputs are handed over from, and outputs come back to, the host's memory.

        Floating-point feeds are converted to the type that the file asks for, outside of the call.
        """
        return self.session.bind(as_asked(feeds, self.session.inputs))


def parse_backends(text: str) -> tuple[str, ...]:
    """Backends from a comma list.

    Raises:
        OptionError: one is unknown or given twice.
    """
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    known = (*BACKENDS, *PLAN_BACKENDS)
    unknown = [name for name in names if name not in known]
    if unknown or not names or len(set(names)) < len(names):
        raise OptionError(f"--backend is {text!r}, expected some of {', '.join(known)}, each once")
    return names


def suits(path: Path, backend: str) -> bool:
    """True if a backend runs files of this kind: plans by their suffix, everything else is ONNX."""
    return (path.suffix in PLAN_SUFFIXES) is (backend in PLAN_BACKENDS)


def open_backend(path: Path, backend: str, threads: int | None) -> Loaded:
    """Load a file on a backend.

    Raises:
        OptionError: the backend is unknown.
        ExportError: the ONNX file cannot be loaded.
        EngineBuildError: the plan cannot be loaded.
        BackendMissingError: the backend is not installed, or does not start here.
    """
    if backend in PLAN_BACKENDS:
        engine = open_engine(path, PLAN_BACKENDS[backend])
        return Loaded(engine, engine.device)
    if backend not in BACKENDS:
        raise OptionError(f"unknown backend {backend!r}, expected one of {', '.join((*BACKENDS, *PLAN_BACKENDS))}")
    # Idle threads of one session would spin on the cores that the next contender needs.
    session = open_session(path, provider=BACKENDS[backend], threads=threads, share_cores=True)
    device = environment.cpu_name() if backend == CPU else environment.collect()["gpu"] or "unknown GPU"
    return Loaded(session, device)


def open_contender(contender: Contender, threads: int | None) -> Loaded:
    """Load a contender of a benchmark on its backend.

    Raises:
        TofuError: as `open_backend`.
    """
    return open_backend(contender.path, contender.backend, threads)
