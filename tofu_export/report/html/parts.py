"""Parts of a page: headline numbers, sections, tables and charts, as plain values for the template."""

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
"""Text of a cell without a value."""


@dataclass(frozen=True)
class Headline:
    """Headline number.

    Attributes:
        value: the number, or a word.
        label: what it measures.
        detail: what it is based on.
        mood: good, bad or plain.
    """

    value: str
    label: str
    detail: str
    mood: str = "plain"


@dataclass(frozen=True)
class Cell:
    """Cell of a table; `mood` colours it, `code` sets it as a name."""

    text: str
    mood: str = ""
    code: bool = False


@dataclass(frozen=True)
class Table:
    """Table with a caption.

    Attributes:
        caption: what the table shows.
        head: names of the columns, and whether they hold numbers.
        rows: cells, the first of each row being its name.
    """

    caption: str
    head: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Chart:
    """Drawing with caption and legend.

    Attributes:
        svg: the drawing.
        caption: what it shows and how to read it.
        legend: class of each colour, and its meaning.
    """

    svg: Markup
    caption: str
    legend: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Section:
    """Section of a page.

    Attributes:
        name: its id in the page.
        title: its heading.
        lead: its conclusion, in a sentence or two.
        missing: why the section is empty; empty text if it is not.
        hint: a command that would fill the section.
        charts: drawings.
        tables: tables, after the drawings.
        maps: token maps.
        definitions: SVG definitions that the token maps share.
        notes: notes for the reader.
        items: a list of terms with a text on each.
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
    """Return the mood of a cell for a layer's method, by what happens to its tokens; empty if none leaves."""
    return "" if not row.removed else "prune" if row.prunes else "merge"


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Any]], *, text: Sequence[int] = (0,)) -> Table:
    """Return a table whose columns hold numbers, except those at the indices `text`."""
    cells = tuple(tuple(one if isinstance(one, Cell) else Cell(str(one)) for one in row) for row in rows)
    return Table(caption, tuple((name, index not in text) for index, name in enumerate(head)), cells)
