"""Chart of quality against cost, with a line through the Pareto front: the paper's figure 4."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from tofu_export.compare.pareto import pareto_front
from tofu_export.options import Precision
from tofu_export.report.document import FULL
from tofu_export.report.sweep import PATTERN, SweepDocument, SweepRow

__all__ = ["pareto_chart"]

_MOST_SERIES = 10
"""Number of curves that get their own colour and name; with more, the chart only separates the best from the rest."""

_MARKS = "osD^vPX<>*"
_METADATA: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "png": {"Software": None}}


def pareto_chart(result: SweepDocument, axis: str | None = None) -> dict[str, bytes]:
    """Draw the chart as `svg` and `png`; nothing if no row can be drawn. Equal results give equal bytes.

    Args:
        result: the sweep; one panel for each model and batch size.
        axis: `images/s` or `gmacs`; None for throughput if measured.
    """
    axis = axis or ("images/s" if result.timed else "gmacs")
    panels: dict[tuple[str, int | None], list[SweepRow]] = defaultdict(list)
    for row in result.rows:
        if row.quality is not None and _cost(row, axis) is not None:
            panels[row.model, row.batch if axis == "images/s" else None].append(row)
    if not panels:
        return {}
    return _draw(panels, axis)


def _draw(panels: dict[tuple[str, int | None], list[SweepRow]], axis: str) -> dict[str, bytes]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "tofu-export", "font.size": 9}):
        figure = Figure(figsize=(7, 4.2 * len(panels)), layout="constrained")
        axes = figure.subplots(len(panels), squeeze=False)[:, 0]
        for place, ((model, batch), rows) in zip(axes, panels.items(), strict=True):
            _panel(place, rows, axis)
            place.set_title(model if batch is None else f"{model}, batch {batch}", loc="left")
        files = {}
        for kind, metadata in _METADATA.items():
            data = io.BytesIO()
            figure.savefig(data, format=kind, dpi=160, metadata=metadata)
            files[kind] = data.getvalue()
    return files


def _panel(place: Any, rows: Sequence[SweepRow], axis: str) -> None:
    series: dict[str, list[SweepRow]] = defaultdict(list)
    for row in rows:
        series[_series(row)].append(row)
    named = len(series) <= _MOST_SERIES
    start = [row for row in rows if row.mode == FULL and row.precision == Precision.FP32.value]
    for number, (name, own) in enumerate(series.items()):
        points = sorted({(_cost(row, axis) or 0, 100 * (row.quality or 0)) for row in [*own, *start]})
        style: dict[str, Any] = {"label": name, "marker": _MARKS[number % len(_MARKS)]}
        if not named:
            style = {"color": "0.6", "marker": "o", "markersize": 3, "linestyle": "none"}
        place.plot(*zip(*points, strict=True), linewidth=1, **style)
    best = sorted({(_cost(row, axis) or 0, 100 * (row.quality or 0)) for row in _front(rows, axis)})
    place.plot(*zip(*best, strict=True), color="black", linewidth=1, linestyle=":", label="not beaten", zorder=0)
    labelled = all(row.top1 is not None for row in rows)
    place.set_xlabel("GMACs per image" if axis == "gmacs" else "images/s (gain over the full model times its speed)")
    place.set_ylabel("top-1 in %" if labelled else "agreement with the full model in %")
    place.grid(alpha=0.3)
    place.legend(fontsize=7)


def _series(row: SweepRow) -> str:
    """Return the name of a row's curve: rows that differ only in r share one."""
    asked = "" if row.mode in (FULL, PATTERN) else f"{row.mode} "
    return f"{asked}{row.label}, {row.precision}"


def _cost(row: SweepRow, axis: str) -> float | None:
    return row.gmacs if axis == "gmacs" else row.comparable_images_per_sec


def _front(rows: Sequence[SweepRow], axis: str) -> list[SweepRow]:
    """Return the rows of one panel that no other dominates on this axis."""
    sign = 1 if axis == "gmacs" else -1
    return pareto_front(rows, lambda row: sign * (_cost(row, axis) or 0), lambda row: row.quality or 0)
