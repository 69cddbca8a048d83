"""Messages of the builder: all are kept, and the first that explains a failure is found."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

__all__ = ["BuildLog", "first_cause", "make_logger"]

HARMLESS = ("cudaError 35", "CUDA driver version is insufficient")
"""Messages that follow almost every error without a driver, and explain none of the others."""

_ERRORS = frozenset({"ERROR", "INTERNAL_ERROR"})
_NOISE = re.compile(r"\s*In \w+ at /_src/\S+?(?=[)\s]|$)|^\S*\.cpp:\d+: |^IBuilder::buildSerializedNetwork: ")
_PARSING = re.compile(r"(?P<check>Static check for parsing|Parsing) node: (?P<name>.*) \[(?P<op>\w+)\]")
_INPUT = re.compile(r"ERROR: (?P<name>.+):\d+ In function importInput:")
_VALUES = re.compile(r"missing values for shape input tensor (\S+)\. ")
_HINTS = (
    ("FP32 GEMM is not supported", "this file computes (in part) in FP32, which SM75 cannot: build for SM80 or newer"),
    ("HW-specific datatypes: fp8", "FP8 needs SM89 or newer: build the fp16 or int8-fp16 file for older ones"),
    ("within workspace limit", "raise the workspace limit, or leave it out"),
    ("not supported by a dedicated kernel", "export with decomposed attention (opset 18)"),
    ("CUDA driver version is insufficient", "this machine has no usable NVIDIA driver, which this build needs"),
)


@dataclass
class BuildLog:
    """Messages with their severities, in order."""

    entries: list[tuple[str, str]] = field(default_factory=list)

    def add(self, severity: str, message: str) -> None:
        """Add a message."""
        self.entries.append((severity, message))

    @property
    def messages(self) -> list[str]:
        """Texts of all messages, whatever their severity."""
        return [message for _, message in self.entries]

    def cause(self) -> str:
        """Return the first error that explains anything, empty if none was logged."""
        return first_cause(message for severity, message in self.entries if severity in _ERRORS)

    def failed_at(self) -> str:
        """Return the input or node at which the parser failed, if its error does not name one; else empty.

        A node that the parser only looked at, as it does with all nodes before parsing, is not reported.
        """
        for message in reversed(self.messages):
            if match := _INPUT.search(message):
                return f"input {match['name']!r}"
            if match := _PARSING.match(message):
                return f"node {match['name']!r} ({match['op']})" if match["check"] == "Parsing" else ""
        return ""

    def missing_values(self) -> list[str]:
        """Return the inputs whose values the builder needs, but does not know."""
        return [name for message in self.messages for name in _VALUES.findall(message)]


def first_cause(errors: Iterable[str]) -> str:
    """Return the first of `errors` that is not a consequence of another, tidied, with a hint if one is known."""
    texts = [text for text in errors if text.strip()]
    real = [text for text in texts if not any(mark in text for mark in HARMLESS)]
    if not texts:
        return ""
    text = (real or texts)[0]
    hint = next((f" ({hint})" for mark, hint in _HINTS if mark in text), "")
    return " ".join(_NOISE.sub("", text).split()) + hint


def make_logger(trt: ModuleType, log: BuildLog) -> Any:
    """Return an `ILogger` that keeps everything, VERBOSE included, in `log` and prints nothing."""

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            log.add(severity.name, message)

    return Logger()
