"""Check a file against the table of facts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from tofu_export.linting.authorities import checker_findings, onnxruntime_findings
from tofu_export.linting.facts import FACTS
from tofu_export.linting.finding import ANY, Fact, Finding, Runtime, Severity
from tofu_export.linting.graph import DEFAULT_DOMAINS, Scope, infer, walk, written_out
from tofu_export.linting.onnx_files import default_opset, file_findings, open_graph
from tofu_export.options import Target
from tofu_export.system.typed_json import JsonObject

__all__ = ["LintReport", "lint_file", "lint_model", "runtimes_of"]


@dataclass(frozen=True)
class LintReport:
    """Result of a lint.

    Attributes:
        path: the file.
        runtimes: the runtimes asked about.
        opset: version of the default operator set; None if the file imports none.
        ir_version: version of the file format.
        nodes: number of nodes, those of sub-graphs and of called functions included.
        findings: in graph order, those of the file as a whole first.
    """

    path: Path
    runtimes: tuple[Runtime, ...]
    opset: int | None
    ir_version: int
    nodes: int
    findings: tuple[Finding, ...]

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """Return the findings of one severity."""
        return tuple(finding for finding in self.findings if finding.severity is severity)

    @property
    def ranked(self) -> tuple[Finding, ...]:
        """Findings, the most severe first."""
        return tuple(finding for severity in Severity for finding in self.of(severity))

    @property
    def counts(self) -> dict[str, int]:
        """Number of findings of each severity."""
        return {severity.value: len(self.of(severity)) for severity in Severity}

    @property
    def passed(self) -> bool:
        """True if no runtime asked about is known to reject the file."""
        return not self.of(Severity.ERROR)

    def to_dict(self) -> JsonObject:
        """Return the report as plain values."""
        return {
            "file": self.path.name,
            "runtimes": [runtime.value for runtime in self.runtimes],
            "opset": self.opset,
            "ir_version": self.ir_version,
            "nodes": self.nodes,
            "passed": self.passed,
            "counts": self.counts,
            "findings": [finding.to_dict() for finding in self.findings],
        }


def runtimes_of(target: Target) -> tuple[Runtime, ...]:
    """Return the runtimes that a target covers: all of them for `portable`."""
    return tuple(Runtime) if target is Target.PORTABLE else (Runtime(target.value),)


def lint_file(path: Path, runtimes: Sequence[Runtime], capabilities: Sequence[str] = ()) -> LintReport:
    """Check a file without its weights; if asked about, onnxruntime also has to load it.

    Args:
        path: any ONNX file.
        runtimes: runtimes to check for.
        capabilities: compute capabilities that an engine is to run on, `SM75`, …

    Raises:
        OptionError: the file does not exist.
        ExportError: the file is not an ONNX graph.
    """
    return lint_model(open_graph(path), path, runtimes, capabilities)


def lint_model(
    model: onnx.ModelProto, path: Path, runtimes: Sequence[Runtime], capabilities: Sequence[str] = ()
) -> LintReport:
    """Check a model that `open_graph` has read, as `lint_file` does."""
    facts = [
        fact
        for fact in FACTS
        if set(fact.runtimes) & set(runtimes) and (fact.capability is None or fact.capability in capabilities)
    ]
    found = [
        replace(finding, runtimes=tuple(entry for entry in finding.runtimes if entry in runtimes))
        for finding in (*file_findings(model, path), *checker_findings(model))
    ]
    nodes = 0
    for node, scope in walk(infer(written_out(model))):
        nodes += 1
        found += _findings(node, scope, facts, runtimes)
    if Runtime.ONNXRUNTIME in runtimes:
        found += onnxruntime_findings(model, path, found)
    return LintReport(
        path,
        tuple(runtimes),
        default_opset(model),
        int(model.ir_version),
        nodes,
        tuple(finding for finding in found if finding.runtimes),
    )


def _findings(
    node: onnx.NodeProto, scope: Scope, facts: Iterable[Fact], runtimes: Sequence[Runtime]
) -> Iterator[Finding]:
    standard = node.domain in DEFAULT_DOMAINS
    for fact in facts:
        if fact.op_types != ANY and not (standard and node.op_type in fact.op_types):
            continue
        message = fact.problem(node, scope)
        if message is not None:
            yield Finding(
                rule=fact.rule,
                severity=fact.severity,
                runtimes=tuple(entry for entry in fact.runtimes if entry in runtimes),
                versions=fact.versions,
                message=message,
                fix=fact.fix,
                source=fact.source,
                node=node.name or f"the one that computes {', '.join(node.output)}",
                op_type=node.op_type if standard else f"{node.domain}::{node.op_type}",
                build_copes=fact.build_copes,
            )
