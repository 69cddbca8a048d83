"""Tables that never cut a number: in a narrow terminal columns are left out, or rows are stacked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

__all__ = ["FittedTable"]


@dataclass(frozen=True)
class FittedTable:
    """Table for any width.

    If it is too wide, empty columns are dropped first, then those of `droppable`, with a line that says so; if it is
    still too wide, it is shown row by row, a line for each cell.

    Attributes:
        table: a table of texts.
        droppable: headings of columns that can be missing, the least important first.
        elsewhere: where to find all columns, for the line about those left out.
    """

    table: Table
    droppable: Sequence[str] = ()
    elsewhere: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Yield what fits the console."""
        cells = [[str(cell) for cell in column.cells] for column in self.table.columns]
        if self._fits(self.table, console, options) or not cells:
            yield self.table
            return
        shown = [at for at, texts in enumerate(cells) if any(texts)]
        order = [at for name in self.droppable for at in shown if self._heading(at) == name]
        for count in range(len(order) + 1):
            kept = [at for at in shown if at not in order[:count]]
            reduced = self._reduced(kept, cells)
            if self._fits(reduced, console, options):
                yield reduced
                break
        else:
            count = len(order)
            yield self._stacked([at for at in shown if at not in order], cells)
        if count:
            where = f" (in {self.elsewhere})" if self.elsewhere else ""
            yield Text(f"left out at this width: {', '.join(map(self._heading, order[:count]))}{where}")

    def _heading(self, at: int) -> str:
        return str(self.table.columns[at].header)

    @staticmethod
    def _fits(table: Table, console: Console, options: ConsoleOptions) -> bool:
        unlimited = options.update(max_width=10_000)
        return Measurement.get(console, unlimited, table).maximum <= options.max_width

    def _reduced(self, shown: Sequence[int], cells: Sequence[Sequence[str]]) -> Table:
        table = Table(title=self.table.title, title_justify=self.table.title_justify)
        for at in shown:
            table.add_column(self._heading(at), justify=self.table.columns[at].justify, no_wrap=True)
        for row in range(len(self.table.rows)):
            table.add_row(*(cells[at][row] for at in shown), end_section=self.table.rows[row].end_section)
        return table

    def _stacked(self, shown: Sequence[int], cells: Sequence[Sequence[str]]) -> Text:
        lines = [str(self.table.title)] if self.table.title else []
        for row in range(len(self.table.rows)):
            first, *rest = shown
            lines.append(cells[first][row])
            lines += [f"  {self._heading(at)} {cells[at][row]}".rstrip() for at in rest if cells[at][row]]
        return Text("\n".join(lines))
