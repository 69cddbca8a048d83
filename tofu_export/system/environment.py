"""Record the environment of a measurement: versions and hardware, without names of users, hosts or folders.

Versions come from package metadata, so nothing heavy is imported.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

__all__ = ["Environment", "collect", "cpu_name", "gpu_capabilities", "logical_cores"]

NVIDIA_SMI_TIMEOUT_S = 10.0

_DISTRIBUTIONS: Mapping[str, tuple[str, ...]] = {
    "tofu_export": ("tofu-export",),
    "torch": ("torch",),
    "timm": ("timm",),
    "onnx": ("onnx",),
    "onnxscript": ("onnxscript",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "numpy": ("numpy",),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt_rtx": ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
}
"""Distributions that provide an import name; the first one installed counts."""

_OF_EXTRAS: Mapping[str, tuple[str, ...]] = {
    "diffusers": ("diffusers",),
    "pillow": ("pillow",),
    "torch_fidelity": ("torch-fidelity",),
    "torchmetrics": ("torchmetrics",),
    "torchvision": ("torchvision",),
    "transformers": ("transformers",),
}
"""Distributions of packages that only some commands use: `collect` includes them on request."""

_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Environment:
    """Environment of a file or measurement, as in report.json (`environment`); None for what is absent.

    Attributes:
        versions: versions of Python and of packages, by import name.
        cpu: marketing name of the processor.
        logical_cores: logical cores that this process may use.
        gpu: names of the NVIDIA GPUs; None without a working driver.
        driver: version of the NVIDIA driver.
        platform: operating system.
    """

    versions: Mapping[str, str | None]
    cpu: str
    logical_cores: int
    gpu: str | None
    driver: str | None
    platform: str

    @property
    def version_words(self) -> str:
        """Installed versions, for example `python 3.12.1, torch 2.10.0`."""
        return ", ".join(f"{name} {version}" for name, version in self.versions.items() if version)


def collect(*also: str) -> Environment:
    """Return the environment of this process.

    Args:
        also: import names of further packages that are used, such as `diffusers`.
    """
    gpu, driver = _nvidia_gpu()
    wanted = {**_DISTRIBUTIONS, **{name: _OF_EXTRAS[name] for name in also}}
    versions = {name: next(filter(None, map(_version, names)), None) for name, names in wanted.items()}
    return Environment(
        versions={"python": platform.python_version(), **versions},
        cpu=cpu_name(),
        logical_cores=logical_cores(),
        gpu=gpu,
        driver=driver,
        platform=platform.platform(),
    )


def cpu_name() -> str:
    """Return the marketing name of the processor, or its architecture if the system does not tell."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    fields = (line.partition(":") for line in lines)
    named = (value.strip() for key, _, value in fields if key.strip().lower() == "model name")
    name = next((value for value in named if value), "")
    return " ".join(name.split()) or platform.processor() or platform.machine() or "unknown CPU"


def logical_cores() -> int:
    """Return the number of logical cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def gpu_capabilities() -> tuple[str, ...]:
    """Return the compute capabilities of the NVIDIA GPUs, such as `SM89`, in order; none without a working driver."""
    values = (row[0].replace(".", "") for row in _nvidia_smi("compute_cap"))
    return tuple(f"SM{value}" for value in values if value.isdecimal())


def _nvidia_gpu() -> tuple[str | None, str | None]:
    """Return the names of the NVIDIA GPUs, joined by commas, and the driver's version; None if no driver works."""
    # Without a device the command may still succeed, with a sentence instead of a table.
    rows = [row for row in _nvidia_smi("name,driver_version") if len(row) > 1]
    if not rows:
        return None, None
    return ", ".join(name.strip() for name, _ in rows), rows[0][1].strip()


def _nvidia_smi(fields: str) -> list[list[str]]:
    """Return one row per line of nvidia-smi's answer, with the last field split off; none if it does not work."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    try:
        answer = subprocess.run(
            [command, f"--query-gpu={fields}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=NVIDIA_SMI_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip().rsplit(",", 1) for line in answer.stdout.splitlines() if line.strip()]
