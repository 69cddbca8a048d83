"""The installed onnxruntime: the one import of it, and which of its providers start here."""

from __future__ import annotations

import os
from typing import Any

from tofu_export.errors import BackendMissingError

__all__ = ["CPU_PROVIDER", "LOG_ERROR", "LOG_FATAL", "onnxruntime", "provider_hint", "version"]

CPU_PROVIDER = "CPUExecutionProvider"

LOG_ERROR, LOG_FATAL = 3, 4
"""Severities of onnxruntime's log."""


def version() -> str:
    """Return the version of the installed onnxruntime.

    Raises:
        BackendMissingError: onnxruntime is not installed or broken.
    """
    return str(onnxruntime().__version__)


def onnxruntime() -> Any:
    """Import onnxruntime, without its telemetry and with errors alone in its log.

    Raises:
        BackendMissingError: it is not installed or broken.
    """
    # From 1.29 on the published Linux and macOS packages report to Microsoft, from the import on, unless this is set
    # before. Source: https://github.com/microsoft/onnxruntime/pull/27379. Who wants that may set it to 0.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    install = "install it with `pip install onnxruntime`, or `pip install onnxruntime-gpu` for NVIDIA GPUs (only one)"
    try:
        import onnxruntime as ort
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise BackendMissingError(f"onnxruntime lacks the package {error.name}: {install}") from error
        raise BackendMissingError(f"onnxruntime is not installed: {install}") from error
    except ImportError as error:
        raise BackendMissingError(f"onnxruntime is installed but cannot be loaded ({error}): {install}") from error
    if not hasattr(ort, "InferenceSession"):
        # What is left when one of onnxruntime and onnxruntime-gpu is removed: an empty folder that still imports.
        raise BackendMissingError(f"onnxruntime is installed but empty: uninstall both variants, then {install}")
    ort.set_default_logger_severity(LOG_ERROR)
    return ort


def provider_hint(provider: str) -> str:
    """Return what an execution provider needs."""
    if provider in ("CUDAExecutionProvider", "TensorrtExecutionProvider"):
        return (
            'It needs an NVIDIA GPU with its driver, and `pip install "tofu-export[gpu]"` after '
            "`pip uninstall onnxruntime`; or ask for the CPU"
        )
    return f"Ask for {CPU_PROVIDER}, or install an onnxruntime that has it"
