"""Tables in narrow terminals: no number is cut."""

from __future__ import annotations

import pytest
from rich.console import Console
from rich.table import Table

from tofu_export.cli.tables import FittedTable


def table() -> Table:
    made = Table(title="speed", title_justify="left")
    for name in ("model", "batch", "remark", "median ms", "against full"):
        made.add_column(name, justify="right")
    made.add_row("vit_base_patch16_224", "64", "", "1234.567", "12.34x")
    made.add_row("vit_tiny", "1", "", "0.123", "1.00x")
    return made


def shown(width: int, **options: object) -> str:
    console = Console(width=width, record=True, force_terminal=False)
    with console.capture() as capture:
        console.print(FittedTable(table(), **options))  # type: ignore[arg-type]
    return capture.get()


def test_wide_enough() -> None:
    text = shown(120)
    assert "remark" in text
    assert "left out" not in text


@pytest.mark.parametrize("width", [30, 45, 60, 80])
def test_no_number_is_cut(width: int) -> None:
    text = shown(width, droppable=("batch",), elsewhere="report.md")
    assert "…" not in text
    assert "1234.567" in text
    assert "12.34x" in text
    assert max(map(len, text.splitlines())) <= width


def test_what_is_left_out_is_said() -> None:
    text = shown(55, droppable=("batch",), elsewhere="report.md")
    assert "left out at this width: batch (in report.md)" in text
    assert "remark" not in text
