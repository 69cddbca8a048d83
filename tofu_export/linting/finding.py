"""The words of the lint: runtimes, severities, facts about runtimes, findings about a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import onnx

from tofu_export.linting.graph import Scope
from tofu_export.system.typed_json import JsonObject

__all__ = ["ANY", "Condition", "Fact", "Finding", "Runtime", "Severity"]

ANY = ("*",)
"""Operators of a fact that looks at every node, whatever its domain."""

Condition = Callable[[onnx.NodeProto, Scope], str | None]
"""What is the matter with a node, in words that follow `node 'x' (Op): `; None if nothing is."""


class Severity(str, Enum):
    """How bad it is. `ERROR`: the runtime rejects it. `WARNING`: it ignores or changes it. `NOTE`: worth knowing."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Runtime(str, Enum):
    """What runs a file: onnxruntime with its CPU provider, or one of the TensorRT products."""

    ONNXRUNTIME = "onnxruntime"
    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"


@dataclass(frozen=True)
class Fact:
    """One row of the table: something that runtimes do with a kind of node.

    Attributes:
        rule: its name, for scripts.
        severity: how bad it is.
        runtimes: whom it holds for.
        versions: versions that it is known of.
        op_types: operators of the default domain that it looks at, or `ANY`.
        problem: what is the matter with a node, or None.
        fix: what to do about it, a clause.
        source: how it is known.
        build_copes: `tofu-export build` gets around it by itself.
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
    """One fact that a file meets.

    Attributes:
        rule: name of the fact.
        severity: how bad it is.
        runtimes: those asked about that it holds for.
        versions: versions of them that it is known of.
        message: what is the matter.
        fix: what to do.
        source: how it is known.
        node: name of the node, or what it computes; empty for the file as a whole.
        op_type: its operator, with the domain unless that is the default one.
        build_copes: `tofu-export build` gets around it by itself.
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
        """Where it is: the node, or the file."""
        return f"node {self.node!r} ({self.op_type})" if self.node else "file"

    def __str__(self) -> str:
        return f"{self.place}: {self.message}; {self.fix}"

    def to_dict(self) -> JsonObject:
        """The finding as plain values; `node` and `op_type` are null for the file as a whole."""
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
