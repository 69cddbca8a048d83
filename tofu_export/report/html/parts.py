"""What a page is made of: big numbers, sections, tables and charts, as plain values for the template."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tofu_export.planning.entry import LayerEntry
from tofu_export.report.html.token_maps import ImageMaps
from tofu_export.report.unet import BlockEntry

__all__ = ["NOTHING", "Cell", "Chart", "Headline", "Section", "Table", "colour_of", "table"]

NOTHING = "\u2013"
"""What a cell holds that has no value."""


@dataclass(frozen=True)
class Headline:
    """A big number.

    Attributes:
        value: the number, or a word.
        label: what it is of.
        detail: what it rests on.
        mood: good, bad or plain.
    """

    value: str
    label: str
    detail: str
    mood: str = "plain"


@dataclass(frozen=True)
class Cell:
    """One cell of a table; `mood` colours it, `code` sets it as a name."""

    text: str
    mood: str = ""
    code: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: what it holds.
        head: names of the columns, and whether they hold numbers.
        rows: cells, the first of each row being its name.
    """

    caption: str
    head: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Chart:
    """A drawing.

    Attributes:
        svg: it.
        caption: what it shows and how to read it.
        legend: class of a colour, and what it stands for.
    """

    svg: Markup
    caption: str
    legend: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Section:
    """One section.

    Attributes:
        name: its id in the page.
        title: its heading.
        lead: what it comes to, in a sentence or two.
        missing: why there is nothing in it; empty where there is something.
        hint: a command that would fill it.
        charts: drawings.
        tables: tables, behind the drawings.
        maps: token maps.
        definitions: what the token maps share.
        notes: what a reader must know.
        items: a list of things and what is to be said about each.
        code: a command.
    """

    name: str
    title: str
    lead: str = ""
    missing: str = ""
    hint: str = ""
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    maps: tuple[ImageMaps, ...] = ()
    definitions: Markup | str = ""
    notes: tuple[str, ...] = ()
    items: tuple[tuple[str, str], ...] = ()
    code: str = ""


def colour_of(row: LayerEntry | BlockEntry) -> str:
    """The mood of a cell with a layer's method: what happens to tokens that leave it; empty where none does."""
    return "" if not row.removed else "prune" if row.prunes else "merge"


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Any]], *, text: Sequence[int] = (0,)) -> Table:
    """A table whose columns hold numbers, but for those of the indices `text`."""
    cells = tuple(tuple(one if isinstance(one, Cell) else Cell(str(one)) for one in row) for row in rows)
    return Table(caption, tuple((name, index not in text) for index, name in enumerate(head)), cells)
