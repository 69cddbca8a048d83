"""Write the results of a sweep: all files of one run, complete, or none."""

from __future__ import annotations

import json
from pathlib import Path

from tofu_export.report.sweep import SweepDocument
from tofu_export.sweep.chart import pareto_chart
from tofu_export.sweep.parquet import parquet_bytes
from tofu_export.sweep.tables import csv_text, markdown
from tofu_export.system.files import staging
from tofu_export.system.typed_json import to_plain

__all__ = ["publish"]


def publish(result: SweepDocument, folder: Path, *, parquet: bool = False, axis: str | None = None) -> list[Path]:
    """Write sweep.csv, sweep.md, sweep.json, the chart, and sweep.parquet if it is asked for.

    Raises:
        BackendMissingError: Parquet is asked for and pyarrow is not installed.
        OutputError: the folder cannot be written.
    """
    files = {"sweep.csv": csv_text(result).encode(), "sweep.md": markdown(result).encode()}
    files |= {f"pareto.{kind}": data for kind, data in pareto_chart(result, axis).items()}
    if parquet:
        files["sweep.parquet"] = parquet_bytes(result)
    files["sweep.json"] = (json.dumps(to_plain(result), indent=2, allow_nan=False) + "\n").encode()
    with staging(folder) as stage:
        for name, data in files.items():
            stage.path(name).write_bytes(data)
        return stage.publish(*files)
