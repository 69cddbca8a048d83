"""Charts of the report: tokens by layer, latency, speed-up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from tofu_export.planning.entry import LayerEntry
from tofu_export.report.document import FULL
from tofu_export.report.html.parts import colour_of
from tofu_export.report.html.svg import Canvas, Scale, ticks
from tofu_export.report.measurement import Measurement

__all__ = ["WIDTH", "Speedup", "latency_chart", "speedup_chart", "tokens_chart"]

WIDTH = 760
_LEFT, _RIGHT = 54, 16
_ROW = 34
_DENSE = 16
"""Largest number of bars that are labelled with their values."""


def tokens_chart(name: str, layers: Sequence[LayerEntry], against: Sequence[LayerEntry] = ()) -> Markup:
    """Draw the tokens that leave each block and those that it removes, coloured by method.

    Args:
        name: id of the chart.
        layers: layers of the plan.
        against: layers of another plan of the same model, whose tokens are drawn as a line.
    """
    highest = max(row.tokens_in for row in layers)
    first, last = layers[0].tokens_in, layers[-1].tokens_out
    said = f"{first} tokens enter the first block, {last} leave the last one."
    if against:
        said += f" Under the plan drawn as a line {against[-1].tokens_out} leave it."
    canvas = Canvas(name, WIDTH, 270, "Tokens by block", said)
    up = Scale(0, highest, 226, 22)
    for value in ticks(0, highest, 4):
        canvas.line(_LEFT, up(value), WIDTH - _RIGHT, up(value), "grid")
        canvas.text(_LEFT - 8, up(value) + 4, f"{value:g}", "soft", "end")
    step = (WIDTH - _LEFT - _RIGHT) / len(layers)
    bar = min(step * 0.72, 46)
    for index, row in enumerate(layers):
        centre = _LEFT + (index + 0.5) * step
        x = centre - bar / 2
        canvas.rect(x, up(row.tokens_out), bar, up(0) - up(row.tokens_out), "c-keep")
        if row.removed:
            kind = f"c-{colour_of(row)}"
            canvas.rect(x, up(row.tokens_in), bar, up(row.tokens_out) - up(row.tokens_in), kind)
        if len(layers) <= _DENSE:
            canvas.text(centre, up(row.tokens_in) - 6, str(row.tokens_out), "num", "middle")
        if len(layers) <= _DENSE or index % 4 == 0:
            canvas.text(centre, 244, str(row.layer), "soft", "middle")
    places = [(_LEFT + (index + 0.5) * step, up(row.tokens_out)) for index, row in enumerate(against)]
    if places:
        canvas.path(places, "s-ink")
    for (x, y), row in zip(places, against, strict=True):
        canvas.dot(x, y, "c-ink", 3, f"block {row.layer}: {row.tokens_out} tokens")
    canvas.text((_LEFT + WIDTH - _RIGHT) / 2, 264, "block", "soft", "middle")
    canvas.turned(14, 124, "tokens")
    return canvas.markup()


def latency_chart(rows: Sequence[Measurement], names: Sequence[str]) -> Markup:
    """Draw each benchmark row as a bar from the fastest query to the 95th percentile, with a dot at the median."""
    left, right = 214, 84
    height = 44 + _ROW * len(rows)
    highest = max(row.latency_ms.p95 for row in rows) * 1.04
    lines = [
        f"{name}: median {row.latency_ms.median:.1f} ms, fastest {row.latency_ms.min:.1f}, "
        f"95 % within {row.latency_ms.p95:.1f}"
        for name, row in zip(names, rows, strict=True)
    ]
    canvas = Canvas("chart-latency", WIDTH, height, "Latency of a batch", ". ".join(lines))
    across = Scale(0, highest, left, WIDTH - right)
    for value in ticks(0, highest, 6):
        canvas.line(across(value), 6, across(value), height - 34, "grid")
        canvas.text(across(value), height - 18, f"{value:g}", "soft", "middle")
    canvas.text((left + WIDTH - right) / 2, height - 3, "milliseconds for a batch", "soft", "middle")
    for index, (name, row) in enumerate(zip(names, rows, strict=True)):
        y = 6 + (index + 0.5) * _ROW
        kind = "full" if row.artifact == FULL else "merge"
        latency = row.latency_ms
        canvas.text(left - 12, y + 4, name, "", "end")
        canvas.rect(across(0), y - 9, across(latency.median) - across(0), 18, f"c-{kind} pale")
        canvas.whisker(across(latency.min), across(latency.p95), y, f"s-{kind}")
        canvas.dot(across(latency.median), y, f"c-{kind}", 5)
        canvas.text(WIDTH - right + 10, y + 4, f"{latency.median:.1f} ms", "num")
    return canvas.markup()


class Speedup(NamedTuple):
    """Speed-up over the full model: name, median over the rounds, and quartiles."""

    name: str
    median: float
    quartiles: tuple[float, float]


def speedup_chart(rows: Sequence[Speedup], work: float) -> Markup:
    """Draw speed-ups over the full model with quartiles of their rounds, and a mark at the speed-up expected from work.

    Args:
        rows: speed-ups of the benchmark, without the full model.
        work: how many times fewer multiply-accumulates the plan has.
    """
    left, right = 214, 84
    height = 44 + _ROW * len(rows)
    values = [1.0, work, *(value for row in rows for value in row.quartiles)]
    low, high = min(0.0, *values), max(values) * 1.08
    lines = [f"{row.name}: {row.median:.2f} times" for row in rows]
    canvas = Canvas("chart-speedup", WIDTH, height, "Speed-up over the full model", ". ".join(lines))
    across = Scale(low, high, left, WIDTH - right)
    for value in ticks(low, high, 5):
        canvas.line(across(value), 6, across(value), height - 34, "grid")
        canvas.text(across(value), height - 18, f"{value:g}\u00d7", "soft", "middle")
    canvas.line(across(1), 2, across(1), height - 34, "axis")
    canvas.text((left + WIDTH - right) / 2, height - 3, "times as fast as the full model", "soft", "middle")
    for index, row in enumerate(rows):
        y = 6 + (index + 0.5) * _ROW
        canvas.text(left - 12, y + 4, row.name, "", "end")
        canvas.line(across(work), y - 11, across(work), y + 11, "s-prune dashed")
        canvas.whisker(across(row.quartiles[0]), across(row.quartiles[1]), y, "s-merge")
        canvas.dot(across(row.median), y, "c-merge", 5)
        canvas.text(WIDTH - right + 10, y + 4, f"{row.median:.2f}\u00d7", "num")
    return canvas.markup()
