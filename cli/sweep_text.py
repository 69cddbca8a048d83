"""Output of a sweep: a progress bar while it runs, lines off a terminal, and the best rows at the end.

Off a terminal a cell that takes long prints its place in a separate line.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from tofu_export.cli.console import LongStep, say
from tofu_export.cli.tables import FittedTable
from tofu_export.report.sweep import SweepDocument, SweepRow
from tofu_export.sweep.tables import gmacs_text

__all__ = ["SweepListener", "summary"]

_MOST_ROWS = 25

_DROPPABLE = ("batch", "type", "images/s", "agreement", "pattern")
"""Columns that a narrow terminal leaves out, in this order."""


class SweepListener:
    """Listener that prints the progress of a sweep on a console; silent if `quiet`."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._long = LongStep(console, quiet=quiet)
        self._stage = ""
        self._total = self._count = 0

    def begin(self, stage: str, todo: int, finished: int) -> None:
        """Begin a stage."""
        self._stage, self._total, self._count = stage, todo, 0
        self.close()
        if finished:
            self.note(f"{stage}: {finished} finished before, {todo} to do")
        if todo and not self._quiet and self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task(stage, total=todo)
            self._bar.start()
        self._await_next()

    def working(self, what: str, fraction: float) -> None:
        """Update the progress of a cell."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=what, completed=self._count + fraction)

    def done(self, what: str, result: str, seconds: float) -> None:
        """End a cell."""
        self._count += 1
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=what, completed=self._count)
        self._say(f"[{self._count}/{max(self._total, self._count)}, {seconds:.1f} s] {what}: {result}")
        self._await_next()

    def note(self, text: str) -> None:
        """Print a note."""
        self._say(text)

    def close(self) -> None:
        """Remove the progress bar."""
        self._long.end()
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _await_next(self) -> None:
        self._long.end()
        if self._count < self._total:
            self._long.begin(f"{self._stage}, {self._count + 1} of {self._total}")

    def _say(self, text: str) -> None:
        if not self._quiet:
            say(self._console, text)


def summary(result: SweepDocument, folder: Path, files: Sequence[Path]) -> Group:
    """Return the rows of the Pareto front, or all if they are few, what failed, and the files."""
    rows = result.rows if len(result.rows) <= _MOST_ROWS else [row for row in result.rows if row.pareto]
    left = len(result.rows) - len(rows)
    title = "all" if not left else f"not beaten by any other ({left} more in sweep.md)"
    table = Table(title=title, title_justify="left")
    columns = ("model", "r", "pattern", "type", "batch", "GMACs", "images/s", "against full", "top-1", "agreement", "")
    for column in columns:
        table.add_column(column, justify="left" if column in ("model", "pattern", "type", "") else "right")
    for row in rows:
        table.add_row(*_cells(row))
    lines = [f"failed: {one.model} {one.what}: {one.reason}" for one in result.failures]
    lines += [f"weights of {model}: {words}" for model, words in result.loaded.items()]
    generated = [images.model for images in result.images if images.generated]
    lines += [f"{model}: the images are generated, agreement on them says little" for model in generated]
    if unverified := sum(not row.verified for row in result.rows):
        lines += [f"{unverified} of {len(result.rows)} rows are of files that were not verified (--no-verify)"]
    lines += [f"written to {folder}: {', '.join(file.name for file in files)}"]
    fitted = FittedTable(table, _DROPPABLE, "sweep.md")
    return Group(*([fitted] if rows else []), Text("\n".join(lines)))


def _cells(row: SweepRow) -> tuple[str, ...]:
    return (
        row.model,
        str(row.r),
        row.label,
        row.precision,
        "" if row.batch is None else str(row.batch),
        gmacs_text(row.gmacs),
        "" if row.images_per_sec is None else f"{row.images_per_sec:.1f}",
        "" if row.speedup_vs_full is None else f"{row.speedup_vs_full:.2f}x",
        "" if row.top1 is None else f"{row.top1:.1%}",
        "" if row.agreement is None else f"{row.agreement:.1%}",
        "*" if row.pareto else "",
    )
