"""Measurements as comma-separated values, one line each, with the names of report.json."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from tofu_export.report.measurement import Measurement
from tofu_export.system.typed_json import JsonObject, to_object

__all__ = ["csv_text"]


def csv_text(measurements: Sequence[Measurement]) -> str:
    """Return the lines, headings first; values that were not measured are empty.

    `latency_ms.p99` and the like become separate columns, as do the quartiles of the speed-up; notes are joined
    with `; `.
    """
    rows = [_flat(measurement) for measurement in measurements]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _flat(measurement: Measurement) -> JsonObject:
    row = measurement.rounded()
    low, high = row.speedup_iqr or (None, None)
    flat: JsonObject = {}
    for name, value in to_object(row).items():
        if name == "latency_ms":
            flat |= {f"{name}.{key}": item for key, item in to_object(row.latency_ms).items()}
        elif name == "speedup_iqr":
            flat |= {"speedup_q1": low, "speedup_q3": high}
        else:
            flat[name] = "; ".join(row.notes) if name == "notes" else value
    return flat
