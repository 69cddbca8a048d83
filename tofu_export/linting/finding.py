"""Types of the lint: runtimes, severities, facts about runtimes, findings about a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import onnx

from tofu_export.linting.graph import Scope
from tofu_export.system.typed_json import JsonObject

__all__ = ["ANY", "Condition", "Fact", "Finding", "Runtime", "Severity"]

ANY = ("*",)
"""Value of `op_types` for a fact that checks every node, whatever its domain."""

Condition = Callable[[onnx.NodeProto, Scope], str | None]
"""Function that returns a node's problem, in words that follow `node 'x' (Op): `, or None."""


class Severity(str, Enum):
    """Severity of a fact. `ERROR`: the runtime rejects it. `WARNING`: it ignores or changes it. `NOTE`: information."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Runtime(str, Enum):
    """Runtime of a file: onnxruntime with its CPU provider, or one of the TensorRT products."""

    ONNXRUNTIME = "onnxruntime"
    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"


@dataclass(frozen=True)
class Fact:
    """Row of the table: something that runtimes do with a kind of node.

    Attributes:
        rule: its name, for scripts.
        severity: severity of its findings.
        runtimes: runtimes that it holds for.
        versions: versions that it is known to hold for.
        op_types: operators of the default domain that it checks, or `ANY`.
        problem: returns the problem of a node, or None.
        fix: what to do about it, as a clause.
        source: how it is known.
        build_copes: `tofu-export build` works around it automatically.
        capability: it holds for this compute capability only.
    """

    rule: str
    severity: Severity
    runtimes: tuple[Runtime, ...]
    versions: str
    op_types: tuple[str, ...]
    problem: Condition
    fix: str
    source: str
    build_copes: bool = False
    capability: str | None = None


@dataclass(frozen=True)
class Finding:
    """Occurrence of a fact in a file.

    Attributes:
        rule: name of the fact.
        severity: severity of the fact.
        runtimes: runtimes asked about that it holds for.
        versions: versions of them that it is known to hold for.
        message: description of the problem.
        fix: what to do.
        source: how it is known.
        node: name of the node, or what it computes; empty for the file as a whole.
        op_type: its operator, with the domain unless that is the default one.
        build_copes: `tofu-export build` works around it automatically.
    """

    rule: str
    severity: Severity
    runtimes: tuple[Runtime, ...]
    versions: str
    message: str
    fix: str
    source: str
    node: str = ""
    op_type: str = ""
    build_copes: bool = False

    @property
    def place(self) -> str:
        """Place of the finding: the node, or the file."""
        return f"node {self.node!r} ({self.op_type})" if self.node else "file"

    def __str__(self) -> str:
        return f"{self.place}: {self.message}; {self.fix}"

    def to_dict(self) -> JsonObject:
        """Return the finding as plain values; `node` and `op_type` are null for the file as a whole."""
        return {
            "rule": self.rule,
            "severity": self.severity.value,
            "runtimes": [runtime.value for runtime in self.runtimes],
            "versions": self.versions,
            "node": self.node or None,
            "op_type": self.op_type or None,
            "message": self.message,
            "fix": self.fix,
            "source": self.source,
        }
