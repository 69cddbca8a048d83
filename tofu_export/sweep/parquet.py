"""Write the rows of a sweep as a Parquet file; no other module imports pyarrow."""

from __future__ import annotations

import io
from typing import Any

from tofu_export.errors import BackendMissingError
from tofu_export.report.sweep import SweepDocument
from tofu_export.sweep.tables import flat_rows

__all__ = ["load", "parquet_bytes"]


def load() -> Any:
    """Import the package pyarrow.

    Raises:
        BackendMissingError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError as error:
        raise BackendMissingError(
            f"pyarrow cannot be imported ({error}): pip install 'tofu-export[parquet]', or leave out --parquet"
        ) from error
    return pa


def parquet_bytes(result: SweepDocument) -> bytes:
    """Return the rows with typed columns, the same as in the CSV file, in the Parquet format.

    Raises:
        BackendMissingError: pyarrow is not installed.
    """
    pa = load()
    numbers, whole, text, flag = pa.float64(), pa.int64(), pa.string(), pa.bool_()
    schema = pa.schema(
        [
            ("model", text), ("r", whole), ("mode", text), ("pattern", text), ("prop_attn", flag),
            ("precision", text), ("batch", whole), ("gmacs", numbers), ("gmacs_full", numbers),
            ("images_per_sec", numbers), ("images_per_sec_full", numbers),
            ("latency_ms.median", numbers), ("latency_ms.p95", numbers),
            ("speedup_vs_full", numbers), ("speedup_q1", numbers), ("speedup_q3", numbers), ("agreement", numbers),
            ("top1", numbers), ("images", whole), ("verified", flag), ("comparable_images_per_sec", numbers),
            ("pareto", flag), ("notes", text), ("select", text),
        ],
        metadata={"command": result.command},
    )  # fmt: skip
    buffer = io.BytesIO()
    pa.parquet.write_table(pa.Table.from_pylist(flat_rows(result), schema=schema), buffer)
    return buffer.getvalue()
