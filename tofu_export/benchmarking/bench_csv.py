"""Measurements as comma-separated values, one line each, with the names that report.json has."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from tofu_export.report.measurement import Measurement

__all__ = ["csv_text"]


def csv_text(measurements: Sequence[Measurement]) -> str:
    """The lines, headings first; what was not measured is empty.

    `latency_ms.p99` and the like become columns of their own, as do the quartiles of the speed-up; notes are joined
    with `; `.
    """
    rows = [_flat(measurement.to_dict()) for measurement in measurements]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _flat(entry: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in entry.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": item for key, item in value.items()}
        elif name == "speedup_iqr":
            low, high = value or (None, None)
            flat |= {"speedup_q1": low, "speedup_q3": high}
        elif name == "notes":
            flat[name] = "; ".join(value)
        else:
            flat[name] = value
    return flat
