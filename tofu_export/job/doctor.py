"""Diagnose the installation: what is usable, what is missing, and how to install it. torch is not imported."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata

from tofu_export.engines import flavours
from tofu_export.engines.flavours import FLAVOURS, Flavour
from tofu_export.errors import BackendMissingError
from tofu_export.system import environment, ort
from tofu_export.system.environment import Environment

__all__ = ["Diagnosis", "Finding", "FlavourState", "OrtState", "examine"]

_DISTRIBUTION = "tofu-export"
_EITHER = ("onnxruntime", "onnxruntime-gpu")
"""Distributions that provide the same import package: one is enough, and two overwrite each other."""

_IMPORT_NAMES: Mapping[str, str] = {"pillow": "PIL", "pyyaml": "yaml"}
"""Import names that differ from the distribution's name with underscores for hyphens."""

_CUDA_PROVIDER = "CUDAExecutionProvider"


@dataclass(frozen=True)
class Finding:
    """Missing or broken part of the installation.

    Attributes:
        required: nothing works without the part; otherwise it is optional.
        what: what is wrong, and what does not work because of it.
        fix: the command that repairs it; empty if there is none.
    """

    required: bool
    what: str
    fix: str


@dataclass(frozen=True)
class FlavourState:
    """State of a TensorRT flavour.

    Attributes:
        name: name of the flavour.
        usable: the flavour can build engines here.
        version: installed version; None if not installed.
        compute_capabilities: those that engines can be built for without their GPU.
        reason: why it is not usable; None if it is.
        install: the command that installs it; None if installed.
    """

    name: str
    usable: bool
    version: str | None
    compute_capabilities: tuple[str, ...]
    reason: str | None
    install: str | None


@dataclass(frozen=True)
class OrtState:
    """Execution providers of onnxruntime that start here."""

    providers: tuple[str, ...]


@dataclass(frozen=True)
class Diagnosis:
    """State of this installation.

    Attributes:
        healthy: nothing required is missing.
        environment: versions and hardware.
        onnxruntime: its providers.
        tensorrt: one entry per flavour.
        findings: what is missing or broken.
    """

    healthy: bool
    environment: Environment
    onnxruntime: OrtState
    tensorrt: tuple[FlavourState, ...]
    findings: tuple[Finding, ...]


def examine() -> Diagnosis:
    """Examine what is installed, and what starts."""
    about = environment.collect()
    gpu = about.gpu is not None
    findings = [*_requirements(), *_both_runtimes()]
    providers: tuple[str, ...] = ()
    try:
        providers = ort.providers_usable()
    except BackendMissingError as error:
        if not any(finding.what.startswith("onnxruntime") for finding in findings):
            findings.append(Finding(True, str(error), "pip install --force-reinstall onnxruntime"))
    else:
        if gpu and _CUDA_PROVIDER not in providers:
            findings.append(
                Finding(
                    False,
                    f"{_CUDA_PROVIDER} does not start: onnxruntime runs on the CPU in spite of the GPU",
                    f'pip uninstall -y onnxruntime && pip install "{_DISTRIBUTION}[gpu]"',
                )
            )
    engines = []
    for flavour in FLAVOURS:
        state, finding = _flavour(flavour, gpu=gpu)
        engines.append(state)
        findings += finding
    healthy = not any(finding.required for finding in findings)
    return Diagnosis(healthy, about, OrtState(providers), tuple(engines), tuple(findings))


def _requirements() -> list[Finding]:
    """Find required distributions that are missing, too old or without their package, by our own metadata."""
    try:
        wanted = metadata.requires(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return [
            Finding(False, "tofu-export runs from a folder: what it requires cannot be checked", "pip install -e .")
        ]
    findings = []
    for requirement in wanted:
        name, minimum = _parsed(requirement)
        if not name:
            continue
        names = _EITHER if name in _EITHER else (name,)
        installed = next(filter(None, map(_version, names)), None)
        fix = f'pip install "{requirement.partition(";")[0].strip()}"'
        if installed is None:
            findings.append(Finding(True, f"{name} is not installed", fix))
        elif _numbers(installed) < _numbers(minimum):
            findings.append(Finding(True, f"{name} {installed} is too old, expected {minimum} or newer", fix))
        elif not _importable(name):
            findings.append(
                Finding(True, f"{name} {installed} is installed, but its package is gone", f"{fix} --force-reinstall")
            )
    return findings


def _both_runtimes() -> Iterable[Finding]:
    if all(map(_version, _EITHER)):
        yield Finding(
            False,
            f"{' and '.join(_EITHER)} are both installed: they overwrite each other, either may be the one in use",
            f'pip uninstall -y {" ".join(_EITHER)} && pip install "{_DISTRIBUTION}[gpu]"',
        )


def _flavour(flavour: Flavour, *, gpu: bool) -> tuple[FlavourState, list[Finding]]:
    """Return the state of a flavour and findings; without a GPU here, a builder for it is not reported missing."""
    try:
        version = str(flavours.load(flavour).__version__)
        capabilities = tuple(flavours.known_capabilities(flavour))
    except BackendMissingError as error:
        reason = re.split(r": (?=pip |its libraries)", str(error))[0]
        install = f'pip install "{flavour.extra}"'
        wanted = flavour.ahead_of_time or gpu or "not installed" not in reason
        return FlavourState(flavour.name, False, None, (), reason, install), [Finding(False, reason, install)] * wanted
    usable = flavour.ahead_of_time or gpu
    reason_not = None if usable else "it builds for the GPU of this machine, and there is none"
    return FlavourState(flavour.name, usable, version, capabilities, reason_not, None), []


def _parsed(requirement: str) -> tuple[str, str]:
    """Return name and lowest version of a requirement; no name for requirements of extras."""
    match = re.match(r"([\w.-]+)\s*(?:>=\s*([\d.]+))?", requirement)
    if match is None or "extra ==" in requirement:
        return "", ""
    return match[1].lower().replace("_", "-"), match[2] or "0"


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """Return a release as numbers without trailing zeros, so that 2.9 equals 2.9.0."""
    match = re.match(r"\d+(\.\d+)*", version)
    parts = [int(part) for part in match[0].split(".")] if match else []
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def _importable(distribution: str) -> bool:
    name = _IMPORT_NAMES.get(distribution, distribution.replace("-", "_"))
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # already imported by code that set no __spec__
        return True
