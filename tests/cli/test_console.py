"""What is said while a job runs."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from tofu_export.cli import console
from tofu_export.cli.console import listening


@pytest.fixture
def long_after(monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(console, "_LONG_S", 0.05)
    return 0.05


def test_off_a_terminal_a_long_step_says_what_it_is(long_after: float) -> None:
    text = io.StringIO()
    with listening(Console(file=text, width=80), quiet=False) as listener:
        listener.step("exporting a")
        listener.done("done")
        listener.step("exporting b")
        time.sleep(10 * long_after)
        assert text.getvalue().splitlines()[-1].endswith("exporting b ...")
        listener.done("done")
    time.sleep(2 * long_after)
    lines = text.getvalue().splitlines()
    assert [line.partition("] ")[2] for line in lines] == ["exporting a: done", "exporting b ...", "exporting b: done"]


@pytest.mark.parametrize(("quiet", "terminal"), [(True, False), (True, True), (False, True)])
def test_no_such_line_elsewhere(long_after: float, *, quiet: bool, terminal: bool) -> None:
    text = io.StringIO()
    with listening(Console(file=text, force_terminal=terminal), quiet=quiet, first="exporting") as listener:
        time.sleep(4 * long_after)
        assert ("exporting" in text.getvalue()) is not quiet  # the spinner of a terminal
        listener.tick("half")
    assert "[   ...  ]" not in text.getvalue()
