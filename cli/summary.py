"""Table at the end of a run: costs and gains, in plain words."""

from __future__ import annotations

from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from tofu_export.cli.tables import FittedTable
from tofu_export.job.files import REPORTS
from tofu_export.job.page import PAGE, TOKENS
from tofu_export.report.document import FULL, TOKEN_MAPS, VitReport
from tofu_export.report.verification import EAGER

__all__ = ["summary"]


def summary(report: VitReport, output: Path) -> Group:
    """Return a comparison of the full and the reduced model, then the files."""
    plan, gmacs = report.plan, report.plan.gmacs
    precisions = {file.path: file.precision.value for file in report.artifacts}
    table = Table(
        title=f"{report.model.resolved}, r = {plan.r_words}, {plan.pattern}{plan.select_words}", title_justify="left"
    )
    for column, justify in (("", "left"), ("full model", "right"), ("with Token Fusion", "right"), ("", "left")):
        table.add_column(column, justify="right" if justify == "right" else "left")
    table.add_row("work per image", f"{gmacs.full:.2f} GMACs", f"{gmacs.reduced:.2f} GMACs", f"{gmacs.ratio:.2f}x less")
    for batch in sorted({row.batch for row in report.benchmark}):
        rows = {row.artifact: row for row in report.benchmark if row.batch == batch}
        full_speed = rows.pop(FULL).images_per_sec
        for name, row in rows.items():
            table.add_row(
                f"this CPU, batch {batch}, {precisions[name]}",
                f"{full_speed:.1f} images/s",
                f"{row.images_per_sec:.1f} images/s",
                f"{row.speedup_vs_full:.2f}x",
            )
    accuracy = {row.artifact: row for row in report.accuracy}
    for name, measured in accuracy.items():
        if name != FULL:
            full, fused = f"{accuracy[FULL].top1:.1%}", f"{measured.top1:.1%}"
            table.add_row(f"accuracy, {precisions[name]}", full, fused, f"{measured.images} images")
    for found in report.verification:
        against = "" if found.reference == EAGER else f", against {found.reference}"
        table.add_row("verified", "", "yes" if found.passed else "NO", f"{found.artifact}{against}")
    files = [f"{file.path}  {file.bytes / 1e6:.1f} MB" for file in report.artifacts]
    drawn = all(skipped.step != TOKEN_MAPS for skipped in report.skipped)
    pages = ", ".join([*([TOKENS] if drawn else []), PAGE, *REPORTS])
    left_out = [f"left out: {skipped.step}: {skipped.reason}" for skipped in report.skipped]
    lines = [f"written to {output}:", *(f"  {line}" for line in [*files, pages])]
    return Group(FittedTable(table), Text("\n".join([*lines, *left_out])))
