"""`tofu-export lint`: find what a runtime would reject, ignore or silently change in a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tofu_export.cli.command import SCHEMA_VERSION, Run, command
from tofu_export.errors import ExitCode
from tofu_export.options import Target, parse_names, shared
from tofu_export.options.declaration import Section, opt, positional

if TYPE_CHECKING:
    from tofu_export.linting import LintReport

__all__ = ["lint_command", "lint_text"]

_SHOWN = 5
"""Number of nodes listed under one finding; the rest is counted."""


@dataclass(frozen=True)
class LintWork:
    """Options of a lint."""

    file: Path = positional(metavar="FILE.onnx")
    target: Target = shared.target()
    compute_capability: tuple[str, ...] = opt(
        (), "GPUs that an engine is to run on, such as SM75: some lack more than others.", Section.ENGINE,
        metavar="LIST", parse=parse_names,
    )  # fmt: skip


@command(
    "lint", short_help="Name what a runtime rejects, ignores or changes in an ONNX file.", quiet="Only the exit code.",
    verbose="every node, and where each fact comes from",
)  # fmt: skip
def lint_command(work: LintWork, run: Run) -> ExitCode | None:
    """Look at any ONNX file without running it: nodes, types, opset, weights beside it.

    Errors are what the runtime rejects, warnings what it ignores or silently changes. What is known was measured with
    onnxruntime on the CPU and with TensorRT-RTX; of classic TensorRT, what it documents. No finding is no promise.

    Exit code 0: no errors. 7: errors. 2: no such file. 3: not an ONNX file.
    """
    from tofu_export.linting import lint_file, runtimes_of

    target = work.target.value
    report = lint_file(work.file, runtimes_of(work.target), work.compute_capability)
    run.document(lambda: {"schema_version": SCHEMA_VERSION, "target": target, **report.to_dict()})
    run.say(lint_text(report, target, verbose=run.verbose))
    return None if report.passed else ExitCode.PRECISION


def lint_text(report: LintReport, target: str, *, verbose: bool = False) -> str:
    """Return the findings as text: equal ones under one heading, with their nodes below."""
    groups: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
    for finding in report.ranked:
        who = ", ".join(runtime.value for runtime in finding.runtimes)
        head = f"{finding.severity.value}: {finding.rule} ({who} {finding.versions})"
        more = f"\n  source: {finding.source}" if verbose else ""
        groups.setdefault((head, finding.fix, more), []).append((finding.place, finding.message))
    lines = []
    for (head, fix, more), places in groups.items():
        lines.append(head)
        shown = places if verbose else places[:_SHOWN]
        lines += [f"  {place}: {message}" for place, message in shown]
        if len(places) > len(shown):
            lines.append(f"  and {len(places) - len(shown)} more")
        lines.append(f"  what to do: {fix}{more}")
    counts = ", ".join(f"{count} {name}{'s' * (count != 1)}" for name, count in report.counts.items() if count)
    return "\n".join([*lines, f"{report.path.name}: {report.nodes} nodes, target {target}: {counts or 'no findings'}"])
