from __future__ import annotations

import signal
from typing import Any, NoReturn

import pytest

from tests.sweep.cells import cell
from tofu_export.report.sweep import SweepFailure
from tofu_export.sweep import workers
from tofu_export.sweep.grid import Cell, Grid, expand
from tofu_export.sweep.records import Record
from tofu_export.sweep.settings import Settings
from tofu_export.sweep.workers import attempt, in_process, in_processes

DEMO = Settings(limit=4)


class Deadly(Cell):
    """A cell that kills the process that receives it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return signal.raise_signal, (signal.SIGKILL,)


def test_errors_become_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = attempt(cell(model="vit_nowhere"), DEMO)
    assert isinstance(outcome, SweepFailure)
    assert (outcome.kind, outcome.exit_code) == ("UnknownModelError", 2)

    def broken(*_: object) -> NoReturn:
        raise ZeroDivisionError("division by zero\nand more")

    monkeypatch.setattr(workers, "evaluate", broken)
    outcome = attempt(cell(), DEMO)
    assert outcome == SweepFailure("demo_vit", "demo_vit r=8 P2A2 fp32", "ZeroDivisionError", "division by zero", 1)


def test_in_process_goes_on_after_a_failure() -> None:
    bad = [cell(model="vit_nowhere"), cell(model="vit_nowhere", r=9)]
    assert [(one.r, type(outcome)) for one, outcome in in_process(bad, DEMO)] == [(8, SweepFailure), (9, SweepFailure)]


@pytest.mark.e2e
def test_a_dead_worker_costs_its_cell() -> None:
    (full,), _ = expand(Grid(("demo_vit",), r=(0,)))
    deadly = Deadly(**vars(full))
    (first, death), (second, unknown), (third, good) = in_processes(1)([deadly, cell(model="vit_nowhere"), full], DEMO)
    assert isinstance(first, Deadly)
    assert isinstance(death, SweepFailure)
    assert "ended with SIGKILL: not enough memory?" in death.reason
    assert third is full
    assert isinstance(good, Record)
    assert good.outputs is not None
    assert good.outputs.tolist() == [9, 6, 7, 7]  # a 7 and a 4, both written badly
    assert good.result.top1 == 0.5
    assert second.model == "vit_nowhere"
    assert isinstance(unknown, SweepFailure)
    assert unknown.kind == "UnknownModelError"
