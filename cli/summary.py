"""The table at the end of a run: what it cost, what it gained, in words that need no background."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from tofu_export.cli.tables import FittedTable
from tofu_export.report.document import Report

__all__ = ["summary"]


def summary(report: Report, output: Path) -> Group:
    """Full against reduced, then the files."""
    gmacs = report.plan["gmacs"]
    precisions = {entry["path"]: entry["precision"] for entry in report.artifacts}
    table = Table(
        title=f"{report.model['resolved']}, r = {report.plan['r']}, {report.plan['pattern']}", title_justify="left"
    )
    for column, justify in (("", "left"), ("full model", "right"), ("with Token Fusion", "right"), ("", "left")):
        table.add_column(column, justify="right" if justify == "right" else "left")
    table.add_row(
        "work per image", f"{gmacs['full']:.2f} GMACs", f"{gmacs['reduced']:.2f} GMACs",
        f"{gmacs['full'] / gmacs['reduced']:.2f}x less",
    )  # fmt: skip
    for batch in sorted({row["batch"] for row in report.benchmark}):
        rows = {row["artifact"]: row for row in report.benchmark if row["batch"] == batch}
        full_speed = rows.pop("full")["images_per_sec"]
        for name, row in rows.items():
            table.add_row(
                f"this CPU, batch {batch}, {precisions[name]}",
                f"{full_speed:.1f} images/s",
                f"{row['images_per_sec']:.1f} images/s",
                f"{row['speedup_vs_full']:.2f}x",
            )
    accuracy = {row["artifact"]: row for row in report.accuracy}
    for name, row in accuracy.items():
        if name != "full":
            full, fused = f"{accuracy['full']['top1']:.1%}", f"{row['top1']:.1%}"
            table.add_row(f"accuracy, {precisions[name]}", full, fused, f"{row['images']} images")
    for row in report.verification:
        table.add_row("verified", "", "yes" if row["passed"] else "NO", f"{row['artifact']}{_against(row)}")
    lines = [f"{entry['path']}  {entry['bytes'] / 1e6:.1f} MB" for entry in report.artifacts]
    left_out = [f"left out: {row['step']}: {row['reason']}" for row in report.skipped]
    files = "\n".join(
        [f"written to {output}:", *(f"  {line}" for line in [*lines, "report.html, report.md, report.json"]), *left_out]
    )
    return Group(FittedTable(table), Text(files))


def _against(row: dict[str, Any]) -> str:
    """What a file was compared with, where that is not the eager model."""
    return "" if row["reference"] == "the eager model" else f", against {row['reference']}"
