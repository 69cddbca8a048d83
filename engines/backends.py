"""What can run a contender of a benchmark, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from tofu_export import environment
from tofu_export.engines.benchmark import Feeds
from tofu_export.errors import OptionError
from tofu_export.ort import CPU_PROVIDER, OrtSession, open_session

__all__ = ["BACKENDS", "CPU", "OrtRunner", "open_backend", "parse_backends"]

CPU = "ort-cpu"

BACKENDS: Mapping[str, str] = MappingProxyType(
    {CPU: CPU_PROVIDER, "ort-cuda": "CUDAExecutionProvider", "ort-tensorrt": "TensorrtExecutionProvider"}
)
"""Name on the command line and in reports -> execution provider of onnxruntime."""


@dataclass(frozen=True)
class OrtRunner:
    """A file that is loaded in onnxruntime.

    Attributes:
        session: the file.
        device: the hardware that runs it.
    """

    session: OrtSession
    device: str

    def bind(self, feeds: Feeds) -> Callable[[], object]:
        """A call that runs the file: inputs are handed over from, and outputs come back to, the host's memory."""
        return self.session.bind(feeds)


def parse_backends(text: str) -> tuple[str, ...]:
    """Backends from a comma list.

    Raises:
        OptionError: one is unknown or given twice.
    """
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    unknown = [name for name in names if name not in BACKENDS]
    if unknown or not names or len(set(names)) < len(names):
        raise OptionError(f"--backend is {text!r}, expected some of {', '.join(BACKENDS)}, each once")
    return names


def open_backend(path: Path, backend: str, threads: int | None) -> OrtRunner:
    """Load a file on a backend.

    Raises:
        OptionError: the backend is unknown.
        ExportError: the file cannot be loaded.
        BackendMissingError: the backend is not installed, or does not start here.
    """
    if backend not in BACKENDS:
        raise OptionError(f"unknown backend {backend!r}, expected one of {', '.join(BACKENDS)}")
    # Idle threads of one session would spin on the cores that the next contender needs.
    session = open_session(path, provider=BACKENDS[backend], threads=threads, share_cores=True)
    device = environment.cpu_name() if backend == CPU else environment.collect()["gpu"] or "unknown GPU"
    return OrtRunner(session, device)
