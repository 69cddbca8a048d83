"""Charts of evidence: quality against cost, accuracies, effects of layers on their matched pairs, searches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from markupsafe import Markup

from tofu_export.compare.pareto import pareto_front
from tofu_export.report.html.charts import WIDTH
from tofu_export.report.html.svg import Canvas, Scale, ticks
from tofu_export.report.linearity import LayerLinearity, Summary

__all__ = [
    "Interval",
    "Line",
    "Point",
    "by_layer",
    "colours_of",
    "frontier",
    "interval_chart",
    "line_chart",
    "pareto_chart",
    "search_chart",
]

_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 20, 16, 320
SERIES = ("merge", "prune", "violet", "blue", "rose", "full")
"""Colours for series that have no colour of their own, in order."""
_OWN = {
    "weighted-mlerp": "rose",
    "mlerp": "merge",
    "prune": "prune",
    "average": "violet",
    "tome": "blue",
    "full": "full",
}
"""Colours of methods, the same in all charts."""


@dataclass(frozen=True)
class Point:
    """One measured reduction of a model.

    Attributes:
        cost: GMACs, or images per second.
        quality: accuracy or agreement, from 0 to 1.
        series: name of its series, such as a mode.
        label: its label.
    """

    cost: float
    quality: float
    series: str
    label: str


def colours_of(names: Sequence[str]) -> list[str]:
    """Return a colour for each series: that of its method, or an unused one as long as there are any."""
    left = [colour for colour in SERIES if colour not in {_OWN.get(name) for name in names}] or list(SERIES)
    others = [name for name in names if name not in _OWN]
    return [_OWN.get(name) or left[others.index(name) % len(left)] for name in names]


@dataclass(frozen=True)
class Line:
    """Series of values by layer.

    Attributes:
        name: name of the series.
        values: layer, mean and spread, which may be unknown.
    """

    name: str
    values: Sequence[tuple[int, float, float | None]]


@dataclass(frozen=True)
class Interval:
    """Measured value with its interval.

    Attributes:
        name: name of the measured subject.
        value: measured value, in percent.
        low: lower end of its interval.
        high: upper end.
        series: `full`, or `merge` for a reduced model.
    """

    name: str
    value: float
    low: float
    high: float
    series: str


def frontier(points: Sequence[Point], *, cheap_is_low: bool) -> list[Point]:
    """Return the points of the Pareto front, cheapest first; one of those that coincide."""
    sign = 1 if cheap_is_low else -1
    named = sorted(points, key=lambda one: one.label)
    front = pareto_front(named, lambda one: sign * one.cost, lambda one: one.quality)
    return list({(one.cost, one.quality): one for one in reversed(front)}.values())[::-1]


def pareto_chart(name: str, points: Sequence[Point], *, axis: str, quality: str, cheap_is_low: bool) -> Markup:
    """Draw quality over cost, with a line through the Pareto front."""
    best = frontier(points, cheap_is_low=cheap_is_low)
    series = list(dict.fromkeys(point.series for point in points))
    colours = colours_of(series)
    canvas = Canvas(
        name, WIDTH, _BOTTOM + 46, f"{quality} against {axis}",
        "Not beaten by any other: " + "; ".join(f"{point.label} ({point.quality:.1%})" for point in best) + ".",
    )  # fmt: skip
    across = _padded([point.cost for point in points], _LEFT, WIDTH - _RIGHT)
    up = _padded([point.quality for point in points], _BOTTOM, _TOP, highest=1.0)
    _axes(canvas, across, up, axis, quality, percent=True)
    canvas.path([(across(point.cost), up(point.quality)) for point in best], "s-ink thin")
    for point in points:
        kind = f"c-{colours[series.index(point.series)]}"
        canvas.dot(across(point.cost), up(point.quality), kind, 5.5 if point in best else 4, _said(point, axis))
    taken: list[tuple[float, float]] = []
    for point in best:
        x, y = across(point.cost), up(point.quality)
        place = min(max(x, _LEFT + 50), WIDTH - 60), (y + 20 if y < _TOP + 22 else y - 10)
        if all(abs(place[0] - other[0]) > 96 or abs(place[1] - other[1]) > 14 for other in taken):
            canvas.text(*place, point.label, "soft", "middle")
            taken.append(place)
    return canvas.markup()


def line_chart(name: str, lines: Sequence[Line], *, title: str, axis: str) -> Markup:
    """Draw means by layer with their spread, and a line at 1, the ideal."""
    known = [value for line in lines for value in line.values]
    values = [mean + sign * (spread or 0) for _, mean, spread in known for sign in (-1, 1)]
    layers = [layer for layer, _, _ in known]
    said = [
        f"{line.name}: from {min(mean for _, mean, _ in line.values):.3f} to {max(m for _, m, _ in line.values):.3f}"
        for line in lines
    ]
    canvas = Canvas(name, WIDTH, _BOTTOM + 46, title, ". ".join(said))
    across = Scale(min(layers) - 0.5, max(layers) + 0.5, _LEFT, WIDTH - _RIGHT)
    up = _padded([*values, 1.0], _BOTTOM, _TOP)
    for value in ticks(up.low, up.high, 5):
        canvas.line(_LEFT, up(value), WIDTH - _RIGHT, up(value), "grid")
        canvas.text(_LEFT - 8, up(value) + 4, f"{value:g}", "soft", "end")
    stride = max(1, len(set(layers)) // 16)
    for layer in sorted(set(layers))[::stride]:
        canvas.text(across(layer), _BOTTOM + 18, str(layer), "soft", "middle")
    canvas.text((_LEFT + WIDTH) / 2, _BOTTOM + 40, "block", "soft", "middle")
    canvas.turned(14, (_TOP + _BOTTOM) / 2, axis)
    canvas.line(_LEFT, up(1.0), WIDTH - _RIGHT, up(1.0), "axis")
    colours = colours_of([line.name for line in lines])
    for index, (line, kind) in enumerate(zip(lines, colours, strict=True)):
        shift = (index - (len(lines) - 1) / 2) * 7
        places = [(across(layer) + shift, up(mean)) for layer, mean, _ in line.values]
        canvas.path(places, f"s-{kind} thin")
        for (x, y), (layer, mean, spread) in zip(places, line.values, strict=True):
            if spread:
                canvas.whisker(up(mean - spread), up(mean + spread), x, f"s-{kind}", upright=True)
            canvas.dot(x, y, f"c-{kind}", 4, f"{line.name}, block {layer}: {mean:.4f}")
    return canvas.markup()


def interval_chart(name: str, rows: Sequence[Interval], *, title: str, axis: str) -> Markup:
    """Draw percentages with their intervals, one below the other."""
    left, right, row_height = 214, 84, 34
    height = 44 + row_height * len(rows)
    said = [f"{row.name}: {row.value:.2f} %, {row.low:.2f} to {row.high:.2f}" for row in rows]
    canvas = Canvas(name, WIDTH, height, title, ". ".join(said))
    across = _padded([end for row in rows for end in (row.low, row.high)], left, WIDTH - right, highest=100.0)
    for value in ticks(across.low, across.high, 6):
        canvas.line(across(value), 6, across(value), height - 34, "grid")
        canvas.text(across(value), height - 18, f"{value:g} %", "soft", "middle")
    canvas.text((left + WIDTH - right) / 2, height - 3, axis, "soft", "middle")
    for index, row in enumerate(rows):
        y = 6 + (index + 0.5) * row_height
        canvas.text(left - 12, y + 4, row.name, "", "end")
        canvas.whisker(across(row.low), across(row.high), y, f"s-{row.series}")
        canvas.dot(across(row.value), y, f"c-{row.series}", 5)
        canvas.text(WIDTH - right + 10, y + 4, f"{row.value:.2f} %", "num")
    return canvas.markup()


def search_chart(name: str, losses: Sequence[float], chosen: int | None, axis: str) -> Markup:
    """Draw losses in the order of a search, the best so far, and a line at the first, which is the baseline.

    Args:
        name: id of the chart.
        losses: at least one; on a logarithmic scale if all are over 0.
        chosen: index of the finally chosen one; None if it is none of them.
        axis: what the losses are.
    """
    logarithmic = min(losses) > 0
    best = list(accumulate(losses, min))
    canvas = Canvas(
        name, WIDTH, _BOTTOM + 46, "Loss of each plan of the search",
        f"Plans tried: {len(losses)}. The first one has {losses[0]:.2g}, the best {best[-1]:.2g}.",
    )  # fmt: skip
    places = [math.log10(loss) for loss in losses] if logarithmic else list(losses)
    up = _padded(places, _BOTTOM, _TOP)
    across = Scale(0.5, len(losses) + 0.5, _LEFT, WIDTH - _RIGHT)
    marks = _decades(up.low, up.high) if logarithmic else [(value, value) for value in ticks(up.low, up.high, 5)]
    for place, value in marks:
        canvas.line(_LEFT, up(place), WIDTH - _RIGHT, up(place), "grid")
        canvas.text(_LEFT - 8, up(place) + 4, f"{value:.3g}", "soft", "end")
    for value in ticks(1, len(losses), 8):
        if value == int(value) >= 1:
            canvas.text(across(value), _BOTTOM + 18, f"{value:g}", "soft", "middle")
    canvas.text((_LEFT + WIDTH) / 2, _BOTTOM + 40, "plans in the order in which they were tried", "soft", "middle")
    canvas.turned(14, (_TOP + _BOTTOM) / 2, axis)
    canvas.line(_LEFT, up(places[0]), WIDTH - _RIGHT, up(places[0]), "s-prune dashed")
    for index, (place, loss) in enumerate(zip(places, losses, strict=True)):
        canvas.dot(across(index + 1), up(place), "c-full", 2.5, f"plan {index + 1}: {loss:.3g}")
    steps = list(accumulate(places, min))
    canvas.path([(across(index + 1), up(place)) for index, place in enumerate(steps)], "s-merge")
    if chosen is not None:
        canvas.dot(across(chosen + 1), up(places[chosen]), "c-merge", 6, f"chosen: plan {chosen + 1}")
    return canvas.markup()


def _decades(low: float, high: float) -> list[tuple[float, float]]:
    """Return positions and values of 1, 2 and 5 times powers of ten between two logarithms."""
    found = []
    for power in range(math.floor(low), math.ceil(high) + 1):
        for factor in (1, 2, 5):
            place = power + math.log10(factor)
            if low <= place <= high:
                found.append((place, factor * 10.0**power))
    return found


def _axes(canvas: Canvas, across: Scale, up: Scale, name: str, quality: str, *, percent: bool) -> None:
    for value in ticks(up.low, up.high, 5):
        canvas.line(_LEFT, up(value), WIDTH - _RIGHT, up(value), "grid")
        canvas.text(_LEFT - 8, up(value) + 4, f"{value * 100:g} %" if percent else f"{value:g}", "soft", "end")
    for value in ticks(across.low, across.high, 6):
        canvas.line(across(value), _BOTTOM, across(value), _BOTTOM + 4, "axis")
        canvas.text(across(value), _BOTTOM + 18, f"{value:g}", "soft", "middle")
    canvas.line(_LEFT, _BOTTOM, WIDTH - _RIGHT, _BOTTOM, "axis")
    canvas.text((_LEFT + WIDTH) / 2, _BOTTOM + 40, name, "soft", "middle")
    canvas.turned(14, (_TOP + _BOTTOM) / 2, quality)


def _padded(values: Sequence[float], start: float, stop: float, highest: float | None = None) -> Scale:
    low, high = min(values), max(values)
    margin = (high - low or abs(high) or 1.0) * 0.08
    top = high + margin
    return Scale(low - margin, top if highest is None else min(top, max(highest, high)), start, stop)


def _said(point: Point, axis: str) -> str:
    return f"{point.label}, {point.series}: {point.quality:.1%} at {point.cost:.4g} {axis}"


def by_layer(
    layers: Sequence[LayerLinearity], measure: Callable[[LayerLinearity], Summary | None]
) -> list[tuple[int, float, float | None]]:
    """Return layer, mean and standard deviation of a measure, for layers that have it."""
    found = ((row.layer, measure(row)) for row in layers)
    return [(layer, one.mean, one.std) for layer, one in found if one is not None and one.mean is not None]
