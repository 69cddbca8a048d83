"""The two TensorRT flavours as data, and the only place that imports either."""

from __future__ import annotations

import importlib
import importlib.util
import re
from dataclasses import dataclass
from types import ModuleType

from tofu_export.errors import BackendMissingError, OptionError

__all__ = ["FLAVOURS", "RTX", "TENSORRT", "TURING", "Flavour", "available", "known_capabilities", "load", "pick"]

TURING = "SM75"
"""Capability that needs a separate engine: in a list it degrades the engine for all (TensorRT-RTX 1.7.1)."""


@dataclass(frozen=True)
class Flavour:
    """TensorRT product.

    Attributes:
        name: name in `--target` and file names.
        module: name to import.
        extra: package to install, for example `tofu-export[rtx]`.
        minimum_version: oldest (major, minor) that the builder is written for.
        ahead_of_time: builds for named compute capabilities without a GPU; False: builds for the GPU of this machine.
        has_plugins: ships a plugin library, whose plugins implement some ONNX operators.
    """

    name: str
    module: str
    extra: str
    minimum_version: tuple[int, int]
    ahead_of_time: bool
    has_plugins: bool


RTX = Flavour("tensorrt-rtx", "tensorrt_rtx", "tofu-export[rtx]", (1, 4), ahead_of_time=True, has_plugins=False)
TENSORRT = Flavour("tensorrt", "tensorrt", "tofu-export[tensorrt]", (10, 0), ahead_of_time=False, has_plugins=True)
FLAVOURS: tuple[Flavour, ...] = (RTX, TENSORRT)
"""Flavours in the order of preference: TensorRT-RTX needs no GPU to build."""


def available() -> tuple[Flavour, ...]:
    """Return the flavours that can be used here, preferred one first.

    TensorRT-RTX counts when its package is found. Classic TensorRT counts only when it imports, as its bindings are
    often present without their libraries.
    """
    return tuple(flavour for flavour in FLAVOURS if _usable(flavour))


def load(flavour: Flavour) -> ModuleType:
    """Import the module of a flavour.

    Raises:
        BackendMissingError: the flavour is not installed, does not import, or is too old.
    """
    install = f"pip install '{flavour.extra}'"
    if not _found(flavour):
        raise BackendMissingError(f"{flavour.name} is not installed: {install}")
    try:
        module = importlib.import_module(flavour.module)
    except Exception as error:  # bindings without libraries raise ImportError, OSError, RuntimeError, by version
        raise BackendMissingError(
            f"{flavour.name} is installed but does not import ({type(error).__name__}: {error}): "
            f"its libraries are missing or do not fit; reinstall with {install}"
        ) from error
    version = str(getattr(module, "__version__", ""))
    if _major_minor(version) < flavour.minimum_version:
        expected = ".".join(map(str, flavour.minimum_version))
        raise BackendMissingError(
            f"{flavour.name} {version or '(no version)'} is too old, expected {expected} or newer: {install} --upgrade"
        )
    return module


def pick(requested: str | None) -> Flavour:
    """Return the flavour named `requested`, or the preferred available one for None.

    Raises:
        OptionError: no flavour has that name.
        BackendMissingError: the flavour is not usable here, or none is.
    """
    if requested is None:
        usable = available()
        if not usable:
            extras = " or ".join(f"pip install '{flavour.extra}'" for flavour in FLAVOURS)
            raise BackendMissingError(f"neither TensorRT-RTX nor TensorRT is usable here, one is needed: {extras}")
        return usable[0]
    for flavour in FLAVOURS:
        if flavour.name == requested:
            load(flavour)
            return flavour
    names = ", ".join(flavour.name for flavour in FLAVOURS)
    raise OptionError(f"unknown TensorRT flavour {requested!r}, expected one of {names}")


def known_capabilities(flavour: Flavour) -> tuple[str, ...]:
    """Return the compute capabilities that the installed version can build for, oldest first; none for TensorRT.

    Raises:
        BackendMissingError: the flavour cannot be imported.
    """
    if not flavour.ahead_of_time:
        return ()
    names = [name for name in load(flavour).ComputeCapability.__members__ if re.fullmatch(r"SM\d+", name)]
    return tuple(sorted(names, key=lambda name: int(name[2:])))


def _usable(flavour: Flavour) -> bool:
    if flavour.ahead_of_time:
        return _found(flavour)
    try:
        load(flavour)
    except BackendMissingError:
        return False
    return True


def _found(flavour: Flavour) -> bool:
    try:
        return importlib.util.find_spec(flavour.module) is not None
    except ValueError:  # already imported by code that set no __spec__
        return True


def _major_minor(version: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else (0, 0)
