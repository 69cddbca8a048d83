"""Draw charts as SVG inside a page: text stays text, colours are those of the page, a title describes the content.

Colours are CSS classes (`c-merge`, `c-prune`, ...), so that a chart follows light, dark and print. All text is escaped
where it enters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

__all__ = ["Canvas", "Scale", "number", "ticks"]


@dataclass(frozen=True)
class Scale:
    """Linear map of values from `low` to `high` onto positions from `start` to `stop`."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """Return the position of a value."""
        span = (self.high - self.low) or 1.0
        return self.start + (value - self.low) / span * (self.stop - self.start)


class Canvas:
    """Drawing of a fixed size in its own units.

    Args:
        name: its id in the page, unique.
        width: in units; text is 12 of them high.
        height: in units.
        title: title, for screen readers.
        description: what it shows.
    """

    def __init__(self, name: str, width: float, height: float, title: str, description: str) -> None:
        self.name = name
        self.width = width
        self.height = height
        self._parts: list[Markup] = [
            Markup('<title id="{0}-t">{1}</title><desc id="{0}-d">{2}</desc>').format(name, title, description)
        ]

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """Draw a line of a class."""
        self._add('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>', kind, *map(number, (x1, y1, x2, y2)))

    def rect(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        """Draw a filled rectangle of a class."""
        sizes = map(number, (x, y, max(width, 0), max(height, 0)))
        self._add('<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>', kind, *sizes)

    def dot(self, x: float, y: float, kind: str, radius: float = 4, label: str = "") -> None:
        """Draw a disc of a class; `label` is its tooltip."""
        title = Markup("<title>{}</title>").format(label) if label else ""
        self._add('<circle class="{}" cx="{}" cy="{}" r="{}">{}</circle>', kind, number(x), number(y), radius, title)

    def path(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        """Draw a line through points."""
        steps = " ".join(f"{'ML'[bool(index)]}{number(x)} {number(y)}" for index, (x, y) in enumerate(points))
        self._add('<path class="{}" d="{}"/>', kind, steps)

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
        """Write a line of text."""
        self._add('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>', kind, number(x), number(y), anchor, text)

    def turned(self, x: float, y: float, text: str) -> None:
        """Write the name of a vertical axis."""
        self._add(
            '<text class="soft" text-anchor="middle" transform="translate({} {}) rotate(-90)">{}</text>',
            number(x), number(y), text,
        )  # fmt: skip

    def whisker(self, x1: float, x2: float, y: float, kind: str, *, upright: bool = False) -> None:
        """Draw an error bar with caps from x1 to x2 at height y; upright: from y1 to y2 at x."""
        for ends in ((x1, y, x2, y), (x1, y - 4, x1, y + 4), (x2, y - 4, x2, y + 4)):
            a, b, c, d = ends
            self.line(*((b, a, d, c) if upright else ends), kind)

    def markup(self) -> Markup:
        """Return the drawing for a page."""
        return Markup(
            '<svg class="chart" viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img" '
            'aria-labelledby="{2}-t {2}-d">{3}</svg>'
        ).format(number(self.width), number(self.height), self.name, Markup("").join(self._parts))

    def _add(self, template: str, *values: object) -> None:
        self._parts.append(Markup(template).format(*values))


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about `count` round numbers between two values."""
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low]
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


def number(value: float) -> str:
    """Format a number with at most two decimals, the same on every machine."""
    text = f"{float(value):.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
