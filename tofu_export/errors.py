"""Errors that are raised on purpose: one root class, one exit code for each kind.

Every message says what was wrong, what was expected, and what to do about it. The command line prints the message
as it stands and exits with `exit_code`; a library user catches `TofuError` or the builtin that the subclass refines.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

__all__ = [
    "BackendMissingError",
    "EngineBuildError",
    "ExitCode",
    "ExportError",
    "LoweringError",
    "OptionError",
    "OutputError",
    "PrecisionMismatchError",
    "TofuError",
    "UnknownModelError",
    "UnsupportedModelError",
    "VerificationError",
    "WeightsError",
    "first_line",
    "some_of",
]


class ExitCode(IntEnum):
    """Exit status of the command line."""

    GOOD = 0
    UNEXPECTED = 1
    USAGE = 2
    EXPORT = 3
    VERIFICATION = 4
    BACKEND_MISSING = 5
    ENGINE_BUILD = 6
    PRECISION = 7


class TofuError(Exception):
    """Root of every error that tofu-export raises on purpose."""

    exit_code: ExitCode = ExitCode.UNEXPECTED


class OptionError(TofuError, ValueError):
    """An option has a value that cannot be used."""

    exit_code = ExitCode.USAGE


class UnknownModelError(TofuError, LookupError):
    """No model has the given name."""

    exit_code = ExitCode.USAGE


class OutputError(TofuError, OSError):
    """The output folder cannot be written."""

    exit_code = ExitCode.USAGE


class UnsupportedModelError(TofuError, NotImplementedError):
    """The model exists, but Token Fusion is not implemented for its architecture."""

    exit_code = ExitCode.EXPORT


class WeightsError(TofuError, RuntimeError):
    """The weights cannot be found, read, trusted or fitted to the model."""

    exit_code = ExitCode.EXPORT


class ExportError(TofuError, RuntimeError):
    """The model could not be turned into an ONNX graph."""

    exit_code = ExitCode.EXPORT


class LoweringError(ExportError):
    """A canonical node has no formulation that the target accepts."""


class VerificationError(TofuError, AssertionError):
    """An exported file does not compute what the eager model computes."""

    exit_code = ExitCode.VERIFICATION


class BackendMissingError(TofuError, ImportError):
    """A backend that was asked for is not installed or cannot run here."""

    exit_code = ExitCode.BACKEND_MISSING


class EngineBuildError(TofuError, RuntimeError):
    """An engine builder refused the graph or failed on it."""

    exit_code = ExitCode.ENGINE_BUILD


class PrecisionMismatchError(TofuError, RuntimeError):
    """An artifact does not have the precision or portability that was asked for."""

    exit_code = ExitCode.PRECISION


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def some_of(names: Sequence[str], most: int) -> str:
    """Return at most so many names for a message, and the number of the others: `a, b and 3 more`."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
