"""`tofu-export lint`: what a runtime would reject, ignore or silently change in a file."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tofu_export.cli.parameters import parse_names
from tofu_export.cli.sections import Section, command, option
from tofu_export.cli.shared_options import json_option, quiet_option, target_option, verbose_option
from tofu_export.errors import ExitCode
from tofu_export.options import Target

if TYPE_CHECKING:
    from tofu_export.linting import LintReport

__all__ = ["lint_command", "lint_text"]

SCHEMA_VERSION = 1
_SHOWN = 5
"""Nodes that are listed under one finding before the rest is only counted."""


@command("lint", short_help="Name what a runtime rejects, ignores or changes in an ONNX file.")
@click.argument("file", metavar="FILE.onnx", type=click.Path(path_type=Path))
@target_option()
@option(Section.ENGINE, "--compute-capability", default="", metavar="LIST",
        help="GPUs that an engine is to run on, such as SM75: some lack more than others.")  # fmt: skip
@json_option()
@quiet_option("Only the exit code.")
@verbose_option("every node, and where each fact comes from")
def lint_command(file: Path, target: str, compute_capability: str, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Look at any ONNX file without running it: nodes, types, opset, weights beside it.

    Errors are what the runtime rejects, warnings what it ignores or silently changes. What is known was measured with
    onnxruntime on the CPU and with TensorRT-RTX; of classic TensorRT, what it documents. No finding is no promise.

    Exit code 0: no errors. 7: errors. 2: no such file. 3: not an ONNX file.
    """
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(name)s: %(message)s")
    from tofu_export.linting import lint_file, runtimes_of

    capabilities = parse_names(compute_capability)
    report = lint_file(file, runtimes_of(Target(target)), capabilities)
    if as_json:
        click.echo(json.dumps({"schema_version": SCHEMA_VERSION, "target": target, **report.to_dict()}, indent=2))
    if not quiet:
        click.echo(lint_text(report, target, verbose=verbose), err=True)
    if not report.passed:
        raise SystemExit(int(ExitCode.PRECISION))


def lint_text(report: LintReport, target: str, *, verbose: bool = False) -> str:
    """The findings for people: equal ones under one head, the nodes below it."""
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
