"""The charts of added evidence: quality against cost, and what layers do to their matched pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tofu_export.html.charts import WIDTH
from tofu_export.html.svg import Canvas, Scale, ticks

__all__ = ["SERIES", "Line", "Point", "by_layer", "frontier", "line_chart", "pareto_chart"]

_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 20, 16, 320
SERIES = ("merge", "prune", "violet", "blue", "rose", "full")
"""Colours of series, in their order."""


@dataclass(frozen=True)
class Point:
    """One measured way to reduce a model.

    Attributes:
        cost: GMACs, or images per second.
        quality: accuracy or agreement, from 0 to 1.
        series: what it is a point of, such as a mode.
        label: what it is called.
    """

    cost: float
    quality: float
    series: str
    label: str


@dataclass(frozen=True)
class Line:
    """A series by layer.

    Attributes:
        name: what it is called.
        values: layer, mean and spread, which may be unknown.
    """

    name: str
    values: Sequence[tuple[int, float, float | None]]


def frontier(points: Sequence[Point], *, cheap_is_low: bool) -> list[Point]:
    """The points that no other beats in both cost and quality, cheapest first."""
    sign = 1 if cheap_is_low else -1
    best: list[Point] = []
    for point in sorted(points, key=lambda one: (sign * one.cost, -one.quality, one.label)):
        if not best or point.quality > best[-1].quality:
            best.append(point)
    return best


def pareto_chart(name: str, points: Sequence[Point], *, axis: str, quality: str, cheap_is_low: bool) -> Markup:
    """Quality over cost, a line through what nothing else beats."""
    best = frontier(points, cheap_is_low=cheap_is_low)
    series = list(dict.fromkeys(point.series for point in points))
    canvas = Canvas(
        name, WIDTH, _BOTTOM + 46, f"{quality} against {axis}",
        "Not beaten by any other: " + "; ".join(f"{point.label} ({point.quality:.1%})" for point in best) + ".",
    )  # fmt: skip
    across = _padded([point.cost for point in points], _LEFT, WIDTH - _RIGHT)
    up = _padded([point.quality for point in points], _BOTTOM, _TOP, highest=1.0)
    _axes(canvas, across, up, axis, quality, percent=True)
    canvas.path([(across(point.cost), up(point.quality)) for point in best], "s-ink thin")
    for point in points:
        kind = f"c-{SERIES[series.index(point.series) % len(SERIES)]}"
        canvas.dot(across(point.cost), up(point.quality), kind, 5.5 if point in best else 4, _said(point, axis))
    taken: list[tuple[float, float]] = []
    for point in best:
        x, y = across(point.cost), up(point.quality)
        place = min(max(x, _LEFT + 50), WIDTH - 60), (y + 20 if y < _TOP + 22 else y - 10)
        if all(abs(place[0] - other[0]) > 96 or abs(place[1] - other[1]) > 14 for other in taken):
            canvas.text(*place, point.label, "soft", "middle")
            taken.append(place)
    return canvas.markup()


def line_chart(name: str, lines: Sequence[Line], *, title: str, axis: str, reference: float | None = 1.0) -> Markup:
    """Means by layer with their spread, and a line at the value that would be ideal."""
    known = [value for line in lines for value in line.values]
    values = [mean + sign * (spread or 0) for _, mean, spread in known for sign in (-1, 1)]
    layers = [layer for layer, _, _ in known]
    said = [
        f"{line.name}: from {min(mean for _, mean, _ in line.values):.3f} to {max(m for _, m, _ in line.values):.3f}"
        for line in lines
    ]
    canvas = Canvas(name, WIDTH, _BOTTOM + 46, title, ". ".join(said))
    across = Scale(min(layers) - 0.5, max(layers) + 0.5, _LEFT, WIDTH - _RIGHT)
    up = _padded(values if reference is None else [*values, reference], _BOTTOM, _TOP)
    for value in ticks(up.low, up.high, 5):
        canvas.line(_LEFT, up(value), WIDTH - _RIGHT, up(value), "grid")
        canvas.text(_LEFT - 8, up(value) + 4, f"{value:g}", "soft", "end")
    stride = max(1, len(set(layers)) // 16)
    for layer in sorted(set(layers))[::stride]:
        canvas.text(across(layer), _BOTTOM + 18, str(layer), "soft", "middle")
    canvas.text((_LEFT + WIDTH) / 2, _BOTTOM + 40, "block", "soft", "middle")
    canvas.turned(14, (_TOP + _BOTTOM) / 2, axis)
    if reference is not None:
        canvas.line(_LEFT, up(reference), WIDTH - _RIGHT, up(reference), "axis")
    for index, line in enumerate(lines):
        kind = SERIES[index % len(SERIES)]
        shift = (index - (len(lines) - 1) / 2) * 7
        places = [(across(layer) + shift, up(mean)) for layer, mean, _ in line.values]
        canvas.path(places, f"s-{kind} thin")
        for (x, y), (layer, mean, spread) in zip(places, line.values, strict=True):
            if spread:
                canvas.whisker(up(mean - spread), up(mean + spread), x, f"s-{kind}", upright=True)
            canvas.dot(x, y, f"c-{kind}", 4, f"{line.name}, block {layer}: {mean:.4f}")
    return canvas.markup()


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


def by_layer(layers: Sequence[Mapping[str, Any]], *keys: str) -> list[tuple[int, float, float | None]]:
    """Layer, mean and standard deviation of a measure, where a layer has it."""
    found = []
    for row in layers:
        value: Any = row
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, Mapping) and isinstance(value.get("mean"), (int, float)):
            spread = value.get("std")
            found.append((int(row["layer"]), float(value["mean"]), None if spread is None else float(spread)))
    return found
