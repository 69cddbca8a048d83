from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.sweep.cells import FakePool, Heard, timing
from tofu_export.errors import ExportError, OptionError
from tofu_export.options import Mode, Precision
from tofu_export.report.sweep import SweepDocument
from tofu_export.sweep import run
from tofu_export.sweep.grid import Cell, Grid
from tofu_export.sweep.records import Timing
from tofu_export.sweep.run import run_sweep
from tofu_export.sweep.settings import Settings
from tofu_export.system.typed_json import to_object
from tofu_export.zoo.weights import WeightsSource

GRID = Grid(("vit_tiny",), r=(8, 16), modes=(Mode.MLERP, Mode.PRUNE))
QUIET = Settings(bench=False)
NAMES = [
    "vit_tiny full fp32",
    "vit_tiny r=8 P6M6 fp32",
    "vit_tiny r=8 P12 fp32",
    "vit_tiny r=16 P6M6 fp32",
    "vit_tiny r=16 P12 fp32",
]


class FakeStopwatch:
    """Times without files: a cell runs as many times faster as its r says."""

    timed: list[str] = []  # noqa: RUF012 - the class is looked at by the tests
    failing: tuple[str, ...] = ()

    def __init__(self, settings: Settings) -> None: ...

    def __enter__(self) -> FakeStopwatch:
        return self

    def __exit__(self, *_: object) -> None: ...

    def time(self, cell: Cell, full: Cell, batch: int, on_progress: Callable[[float], None]) -> Timing:
        assert full.full
        on_progress(0.5)
        self.timed.append(f"{cell} {batch}")
        if str(cell) in self.failing:
            raise ExportError("too large")
        return timing(100.0 + cell.r, 1 + cell.r / 10)


@pytest.fixture(autouse=True)
def stopwatch(monkeypatch: pytest.MonkeyPatch) -> type[FakeStopwatch]:
    monkeypatch.setattr(run, "Stopwatch", FakeStopwatch)
    FakeStopwatch.timed, FakeStopwatch.failing = [], ()
    return FakeStopwatch


def sweep(folder: Path, pool: FakePool, *, grid: Grid = GRID, settings: Settings = QUIET, **more: Any) -> SweepDocument:
    return run_sweep(grid, settings, folder, pool, more.pop("listener", Heard()), **more)


def test_rows_say_what_was_found(tmp_path: Path) -> None:
    result = sweep(tmp_path, FakePool(), command="tofu-export sweep")
    assert [(row.r, row.mode, row.top1, row.agreement) for row in result.rows] == [
        (0, "full", 1.0, 1.0),
        (8, "mlerp", 0.8, 0.8),
        (8, "prune", 0.8, 0.8),
        (16, "mlerp", 0.6, 0.6),
        (16, "prune", 0.6, 0.6),
    ]
    assert {row.batch for row in result.rows} == {None}
    assert not result.timed
    document = to_object(result)
    assert (document["kind"], document["schema_version"], document["command"]) == ("sweep", 1, "tofu-export sweep")
    assert document["images"] == [{"model": "vit_tiny", "source": "ten images", "generated": False}]


def test_a_second_run_measures_nothing(tmp_path: Path) -> None:
    first = sweep(tmp_path, FakePool(), settings=Settings())
    again, listener = FakePool(), Heard()
    FakeStopwatch.timed = []
    second = sweep(tmp_path, again, settings=Settings(), listener=listener)
    assert again.evaluated == FakeStopwatch.timed == []
    assert second.rows == first.rows
    assert listener.stages == [("evaluating", 0, 5), ("timing one by one", 0, 5)]


def test_what_was_finished_before_a_kill_is_kept(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path, FakePool(stop_before=3))
    rest, listener = FakePool(), Heard()
    assert len(sweep(tmp_path, rest, listener=listener).rows) == 5
    assert rest.evaluated == NAMES[3:]
    assert listener.stages == [("evaluating", 2, 3)]


def test_a_larger_grid_only_adds(tmp_path: Path) -> None:
    sweep(tmp_path, FakePool())
    more = FakePool()
    grid = Grid(("vit_tiny",), r=(8, 16, 20), modes=(Mode.MLERP,))
    listener = Heard()
    assert len(sweep(tmp_path, more, grid=grid, listener=listener).rows) == 4
    assert more.evaluated == ["vit_tiny r=20 P6M6 fp32"]
    assert listener.notes == ["2 evaluations of another grid kept and left out"]


def test_changed_versions_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep(tmp_path, FakePool())
    from tofu_export.system import environment

    here = environment.collect()
    changed = replace(here, versions={**here.versions, "onnxruntime": "99.0"})
    monkeypatch.setattr("tofu_export.sweep.settings.environment.collect", lambda: changed)
    again, listener = FakePool(), Heard()
    sweep(tmp_path, again, listener=listener)
    assert again.evaluated == NAMES
    assert len(listener.notes) == 1
    assert listener.notes[0].startswith("5 evaluations measured again: onnxruntime was 1")
    assert listener.notes[0].endswith("is 99.0")


def test_fresh_measures_again(tmp_path: Path) -> None:
    sweep(tmp_path, FakePool())
    again = FakePool()
    sweep(tmp_path, again, fresh=True)
    assert again.evaluated == NAMES


def test_a_failing_cell_stops_nothing_and_is_tried_again(tmp_path: Path) -> None:
    result = sweep(tmp_path, FakePool(failing=NAMES[1:2]))
    assert [(failure.what, failure.reason, failure.exit_code) for failure in result.failures] == [
        (NAMES[1], "it did not work", 3)
    ]
    assert len(result.rows) == 4
    again = FakePool()
    assert sweep(tmp_path, again).failures == ()
    assert again.evaluated == NAMES[1:2]


def test_without_the_full_model_nothing_is_compared_or_timed(tmp_path: Path) -> None:
    result = sweep(tmp_path, FakePool(failing=NAMES[:1]), settings=Settings())
    assert {row.agreement for row in result.rows} == {None}
    assert {row.top1 for row in result.rows} == {0.8, 0.6}
    assert FakeStopwatch.timed == []


def test_the_full_model_in_half_precision_is_no_reference(tmp_path: Path) -> None:
    grid = Grid(("vit_tiny",), r=(0, 8), precisions=(Precision.FP16,))
    rows = sweep(tmp_path, FakePool(failing=NAMES[:1]), grid=grid, settings=Settings()).rows
    assert [(row.mode, row.precision, row.agreement) for row in rows] == [
        ("full", "fp16", None),
        ("weighted-mlerp", "fp16", None),
    ]
    assert FakeStopwatch.timed == []


def test_timings_come_one_by_one_after_all_evaluations(tmp_path: Path) -> None:
    class Watching(FakePool):
        def __call__(self, *arguments: Any) -> Any:
            for one in super().__call__(*arguments):
                assert FakeStopwatch.timed == []
                yield one

    grid = Grid(("vit_tiny",), r=(8,), batches=(1, 4))
    result = sweep(tmp_path, Watching(), grid=grid, settings=Settings())
    assert FakeStopwatch.timed == [
        "vit_tiny full fp32 1",
        "vit_tiny full fp32 4",
        "vit_tiny r=8 P3W9 fp32 1",
        "vit_tiny r=8 P3W9 fp32 4",
    ]
    assert [(row.batch, row.images_per_sec, row.speedup_vs_full) for row in result.rows] == [
        (1, 100.0, 1.0),
        (4, 100.0, 1.0),
        (1, 108.0, 1.8),
        (4, 108.0, 1.8),
    ]


def test_half_precision_is_evaluated_and_not_timed(tmp_path: Path) -> None:
    grid = Grid(("vit_tiny",), r=(8,), precisions=(Precision.FP16,))
    rows = sweep(tmp_path, FakePool(), grid=grid, settings=Settings()).rows
    assert FakeStopwatch.timed == ["vit_tiny full fp32 8"]
    assert rows[1].images_per_sec is None
    assert rows[1].top1 == 0.8
    assert "casts" in rows[1].notes[0]


def test_a_timing_that_fails_leaves_the_accuracy(tmp_path: Path) -> None:
    FakeStopwatch.failing = (NAMES[1],)
    result = sweep(tmp_path, FakePool(), settings=Settings())
    assert [(failure.what, failure.exit_code) for failure in result.failures] == [(f"{NAMES[1]} batch 8", 3)]
    assert (result.rows[1].images_per_sec, result.rows[1].top1) == (None, 0.8)


def test_one_weights_file_is_of_one_model(tmp_path: Path) -> None:
    settings = Settings(weights=WeightsSource.parse("vit.pth"))
    with pytest.raises(OptionError, match="belong to one model"):
        sweep(tmp_path, FakePool(), grid=Grid(("vit_tiny", "vit_small")), settings=settings)
    with pytest.raises(OptionError, match="no such file"):
        sweep(tmp_path, FakePool(), settings=settings)
