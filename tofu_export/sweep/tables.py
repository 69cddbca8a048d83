"""A sweep as text: one line per row as CSV, and Markdown tables like those of the paper."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence

from tofu_export.report.document import FULL
from tofu_export.report.sweep import SweepDocument, SweepRow
from tofu_export.system.typed_json import JsonObject, to_object

__all__ = ["csv_text", "flat_rows", "gmacs_text", "markdown", "pivot"]

_PIVOTS: Mapping[str, Callable[[SweepRow], float | None]] = {
    "top-1": lambda row: row.top1,
    "agreement with the full model": lambda row: row.agreement,
}


def flat_rows(result: SweepDocument) -> list[JsonObject]:
    """Return the rows without nesting; values that were not measured are None."""
    return [_flat(row) for row in result.rows]


def csv_text(result: SweepDocument) -> str:
    """Return the rows as comma-separated values, headings first."""
    rows = flat_rows(result)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def markdown(result: SweepDocument) -> str:
    """Return the text of sweep.md: for each model its images, quality by pattern and r, all rows, failures."""
    lines = ["# Sweep", ""]
    for model in dict.fromkeys(row.model for row in result.rows):
        rows = [row for row in result.rows if row.model == model]
        lines += [f"## {model}", "", f"Measured on {result.images_of(model).source}.{_warning(result, model)}", ""]
        lines += [f"Weights: {result.loaded[model]}.", ""]
        for precision in dict.fromkeys(row.precision for row in rows):
            own = [row for row in rows if row.precision == precision]
            for name in _PIVOTS:
                table = pivot(own, name)
                if table:
                    lines += [f"### {name[0].upper() + name[1:]}, {precision}", "", *table, ""]
        lines += ["### All", "", *_all_rows(rows), ""]
    if result.failures:
        lines += ["## Failed", ""]
        lines += _table(("model", "what", "reason"), [(one.model, one.what, one.reason) for one in result.failures])
        lines += [""]
    about = result.environment
    lines += ["## Reproduce", "", "```", result.command, "```", "", f"{about.cpu}; {about.version_words}", ""]
    return "\n".join(lines)


def pivot(rows: Sequence[SweepRow], name: str) -> list[str]:
    """Return a Markdown table of `top-1` or `agreement with the full model`, with patterns as rows and r as columns.

    The rows are of one model and precision. The table is empty with fewer than two patterns or no values.
    """
    value = _PIVOTS[name]
    rows = [row for row in rows if value(row) is not None]
    reduced = [row for row in rows if row.mode != FULL]
    labels = list(dict.fromkeys(row.label for row in reduced))
    if len(labels) < 2:
        return []
    amounts = sorted({row.r for row in reduced})
    gmacs = {row.r: row.gmacs for row in reduced}
    found = {(row.label, row.r): value(row) for row in rows}
    full = next((value(row) for row in rows if row.mode == FULL), None)
    head = ("pattern", *(f"r = {r}" for r in amounts))
    lines = [("GMACs", *(gmacs_text(gmacs[r]) for r in amounts))]
    if full is not None:
        lines.append((f"full model ({gmacs_text(rows[0].gmacs_full)} GMACs)", *(_percent(full) for _ in amounts)))
    for label in labels:
        best = {r: max((found.get((other, r)) or 0) for other in labels) for r in amounts}
        cells = [(found.get((label, r)), best[r]) for r in amounts]
        shown = ["" if got is None else f"**{_percent(got)}**" if got == top else _percent(got) for got, top in cells]
        lines.append((f"`{label}`", *shown))
    return _table(head, lines)


def _all_rows(rows: Sequence[SweepRow]) -> list[str]:
    head = (
        "r", "pattern", "precision", "batch", "GMACs", "images/s", "full beside it", "against full", "median", "p95",
        "top-1", "agreement", "verified", "Pareto",
    )  # fmt: skip
    columns = list(zip(*(_cells(row) for row in rows), strict=True))
    kept = [index for index, column in enumerate(columns) if any(column)]  # nothing timed, no labels: no such column
    return _table([head[index] for index in kept], [[_cells(row)[index] for index in kept] for row in rows])


def _cells(row: SweepRow) -> tuple[str, ...]:
    latency = row.latency_ms
    speed = "" if row.speedup_vs_full is None else f"{row.speedup_vs_full:.2f}x"
    if row.speedup_iqr is not None and row.mode != FULL:
        speed += f" ({row.speedup_iqr[0]:.2f}-{row.speedup_iqr[1]:.2f})"
    return (
        str(row.r),
        FULL if row.mode == FULL else f"`{row.label}`",
        row.precision,
        "" if row.batch is None else str(row.batch),
        gmacs_text(row.gmacs),
        "" if row.images_per_sec is None else f"{row.images_per_sec:.1f}",
        "" if row.images_per_sec_full is None else f"{row.images_per_sec_full:.1f}",
        speed,
        "" if latency is None else f"{latency['median']:.2f} ms",
        "" if latency is None else f"{latency['p95']:.2f} ms",
        "" if row.top1 is None else _percent(row.top1),
        "" if row.agreement is None else _percent(row.agreement),
        "yes" if row.verified else "no",
        "yes" if row.pareto else "",
    )


def _warning(result: SweepDocument, model: str) -> str:
    if not result.images_of(model).generated:
        return ""
    return " **These are generated, not real: how far the files agree on them says little about photographs.**"


def gmacs_text(value: float) -> str:
    """Return GMACs with enough digits to distinguish a small model's values."""
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    body = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *body]


def _flat(row: SweepRow) -> JsonObject:
    latency = row.latency_ms or {}
    low, high = row.speedup_iqr or (None, None)
    flat: JsonObject = {}
    for name, value in to_object(row).items():
        if name == "latency_ms":
            flat |= {f"latency_ms.{key}": latency.get(key) for key in ("median", "p95")}
        elif name == "speedup_iqr":
            flat |= {"speedup_q1": low, "speedup_q3": high}
        else:
            flat[name] = "; ".join(row.notes) if name == "notes" else value
    return flat
