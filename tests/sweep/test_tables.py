from __future__ import annotations

import csv
import io
import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import Any

import pytest

from tests.sweep.cells import EVALUATION, cell, timing
from tofu_export.errors import BackendMissingError
from tofu_export.options import Precision
from tofu_export.report.sweep import SweepDocument, SweepFailure, SweepImages, SweepRow
from tofu_export.sweep.chart import pareto_chart
from tofu_export.sweep.parquet import parquet_bytes
from tofu_export.sweep.records import Timing
from tofu_export.sweep.result import compared, row_of
from tofu_export.sweep.tables import csv_text, flat_rows, markdown, pivot
from tofu_export.system.environment import Environment


def row(r: int, top1: float | None, pattern: str = "PPAA", time: Timing | None = None) -> SweepRow:
    return row_of(cell(r, pattern), 8, replace(EVALUATION, top1=top1), 0.9, time)


def result(*rows: SweepRow, **changes: Any) -> SweepDocument:
    environment = Environment({"python": "3.11", "torch": "2.14", "tensorrt": None}, "a CPU", 2, None, None, "Linux")
    loaded = {"demo_vit": "demo.safetensors (timm)"}
    whole = SweepDocument(
        rows=compared(rows), images=(SweepImages("demo_vit", "ten images"),), loaded=loaded, environment=environment,
        command="tofu-export sweep demo_vit",
    )  # fmt: skip
    return replace(whole, **changes)


GRID = (
    row(0, 0.95), row(8, 0.9, "PPPP"), row(8, 0.94, "PPAA"), row(16, 0.5, "PPPP"), row(16, 0.5, "PPAA"),
)  # fmt: skip


def test_patterns_against_r() -> None:
    assert pivot(GRID, "top-1") == [
        "| pattern | r = 8 | r = 16 |",
        "|---|---|---|",
        "| GMACs | 0.920 | 0.840 |",
        "| full model (1.00 GMACs) | 95.0% | 95.0% |",
        "| `P4` | 90.0% | **50.0%** |",
        "| `P2A2` | **94.0%** | **50.0%** |",
    ]


def test_sizes_are_told_apart() -> None:
    both = (row(8, 0.9), replace(row(8, 0.94), prop_attn=False))
    assert [line.split(" | ")[0] for line in pivot(both, "top-1")[3:]] == ["| `P2A2`", "| `P2A2 without sizes`"]
    assert "<!-- average P2A2 without sizes, fp32 -->" in words(pareto_chart(result(row(0, 0.95), *both))["svg"])


def test_a_hole_in_the_table_stays_empty() -> None:
    assert pivot(GRID[:-1], "top-1")[-1] == "| `P2A2` | **94.0%** |  |"


def test_one_pattern_makes_no_table() -> None:
    assert pivot(GRID[:2], "top-1") == []
    assert pivot([row(8, None, "PPPP"), row(8, None, "AAAA")], "top-1") == []


def test_markdown_says_what_failed_and_on_what() -> None:
    failure = SweepFailure("swin", "all", "UnsupportedModelError", "no plain | blocks", 3)
    text = markdown(result(*GRID, failures=(failure,)))
    assert "Measured on ten images." in text
    assert "| swin | all | no plain / blocks |" in text
    assert "### Top-1, fp32" in text
    assert "images/s" not in text  # nothing was timed
    assert "tofu-export sweep demo_vit" in text
    assert "tensorrt" not in text


def test_markdown_warns_of_generated_images() -> None:
    assert "**These are generated, not real" in markdown(
        result(*GRID, images=(SweepImages("demo_vit", "ten images", generated=True),))
    )


def test_markdown_of_times() -> None:
    text = markdown(result(row(0, 0.95, "----", timing(100, 1.0)), row(8, 0.9, time=timing(180, 1.8))))
    assert "| 0 | full | fp32 | 8 | 1.00 | 100.0 | 100.0 | 1.00x | 80.00 ms | 90.00 ms | 95.0% | 90.0% | yes |" in text
    assert "| 8 | `P2A2` | fp32 | 8 | 0.920 | 180.0 | 100.0 | 1.80x (1.70-1.90) |" in text


def test_csv_has_a_line_for_each_row() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(result(row(8, 0.9, time=timing(180, 1.8)), row(16, 0.5))))))
    assert [(one["r"], one["top1"], one["images_per_sec"], one["latency_ms.p95"]) for one in rows] == [
        ("8", "0.9", "180", "50.0"),
        ("16", "0.5", "", ""),
    ]
    assert rows[0]["speedup_q3"] == "1.9000000000000001"
    assert csv_text(result()) == "\n"


def test_parquet_has_the_same_columns_with_types() -> None:
    pq = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    whole = result(row(8, 0.9, time=timing(180, 1.8)), row(16, None))
    table = pq.read_table(io.BytesIO(parquet_bytes(whole)))
    assert table.to_pylist() == flat_rows(whole)
    assert table.column_names == list(flat_rows(whole)[0])
    assert str(table.schema.field("top1").type) == "double"
    assert table.schema.metadata[b"command"] == b"tofu-export sweep demo_vit"


def test_parquet_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(BackendMissingError, match=r"pip install 'tofu-export\[parquet\]'"):
        parquet_bytes(result(*GRID))


def words(svg: bytes) -> str:
    """The comments that matplotlib puts before the outlines of each text."""
    return svg.decode()


def test_the_chart_is_the_same_for_the_same_result() -> None:
    whole = result(*GRID)
    first, second = pareto_chart(whole), pareto_chart(whole)
    assert first == second
    assert first["png"].startswith(b"\x89PNG")
    assert ET.fromstring(first["svg"]).tag.endswith("svg")
    for text in ("demo_vit", "top-1 in %", "GMACs per image", "average P2A2, fp32", "full, fp32", "not beaten"):
        assert f"<!-- {text} -->" in words(first["svg"])


def test_the_chart_of_times_has_a_panel_for_each_batch() -> None:
    timed = row(0, 0.95, "----", timing(100, 1.0))
    whole = result(timed, replace(timed, batch=1), replace(row(8, 0.9, time=timing(180, 1.8)), batch=1))
    svg = words(pareto_chart(whole)["svg"])
    assert "<!-- demo_vit, batch 8 -->" in svg
    assert "<!-- demo_vit, batch 1 -->" in svg
    assert "<!-- demo_vit -->" in words(pareto_chart(whole, "gmacs")["svg"])


def test_many_curves_have_no_names() -> None:
    many = [row(8, 0.9, "P" * d + "A" * (12 - d)) for d in range(13)]
    assert "P3A9" not in words(pareto_chart(result(*many))["svg"])


def test_nothing_to_draw() -> None:
    assert pareto_chart(result()) == {}
    assert pareto_chart(result(*GRID), "images/s") == {}


def test_precisions_have_tables_of_their_own() -> None:
    half = [replace(one, precision=Precision.FP16.value) for one in GRID[1:]]
    text = markdown(result(*GRID, *half))
    assert "### Top-1, fp32" in text
    assert "### Top-1, fp16" in text
