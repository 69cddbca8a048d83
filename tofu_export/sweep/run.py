"""Run a sweep: evaluate unfinished cells, then time them one by one, and save each when done."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Protocol

from tofu_export.errors import OptionError, TofuError
from tofu_export.options import Precision
from tofu_export.report.sweep import SweepDocument, SweepFailure, SweepImages, SweepRow
from tofu_export.sweep.grid import Cell, Grid, expand
from tofu_export.sweep.records import Evaluation, Record, Timing
from tofu_export.sweep.result import agreement_of, compared, row_of
from tofu_export.sweep.settings import Settings
from tofu_export.sweep.store import Key, Store
from tofu_export.sweep.timing import Stopwatch
from tofu_export.sweep.workers import Pool
from tofu_export.system import environment
from tofu_export.zoo.weights import WeightsKind

__all__ = ["Listener", "check", "run_sweep"]


class Listener(Protocol):
    """Listener to the progress of a sweep."""

    def begin(self, stage: str, todo: int, finished: int) -> None:
        """Report that a stage begins, with the number of cells to do and of those finished in an earlier run."""
        ...

    def working(self, what: str, fraction: float) -> None:
        """Report the progress of a cell of the stage."""
        ...

    def done(self, what: str, result: str, seconds: float) -> None:
        """Report that a cell of the stage has ended, successfully or not."""
        ...

    def note(self, text: str) -> None:
        """Report a note for the reader of the result."""
        ...


@dataclass(frozen=True)
class _Timed:
    """Cell at a batch size, to be timed."""

    cell: Cell
    batch: int
    key: Key


def check(grid: Grid, settings: Settings) -> None:
    """Refuse options that do not fit together, before any work.

    Raises:
        OptionError: one weights file is given for several models.
    """
    if settings.weights.kind is WeightsKind.PATH and len(grid.models) > 1:
        raise OptionError(f"weights {settings.weights} belong to one model, but the sweep has {len(grid.models)}")


def run_sweep(
    grid: Grid,
    settings: Settings,
    folder: Path,
    pool: Pool,
    listener: Listener,
    *,
    fresh: bool = False,
    command: str = "",
) -> SweepDocument:
    """Measure all cells of a grid that are not yet in `folder`, and return all results.

    Evaluations may run in parallel; timings never do, and not during evaluations.

    Args:
        grid: cells to measure.
        settings: settings of the measurement.
        folder: folder that keeps finished cells; created if needed.
        pool: runs the evaluations.
        listener: receives the progress.
        fresh: measure finished cells again.
        command: the user's command line.

    Raises:
        OptionError: grid and settings do not fit together, or images or weights are missing.
        OutputError: the folder cannot be written.
    """
    check(grid, settings)
    cells, failures = expand(grid)
    for failure in failures:
        listener.done(f"{failure.model} {failure.what}", failure.reason, 0)
    store = Store(folder)
    records, failed = _evaluate(cells, settings, store, pool, listener, fresh=fresh)
    timings: dict[tuple[Cell, int], Record[Timing]] = {}
    late: list[SweepFailure] = []
    if settings.bench:
        timings, late = _time([cell for cell in cells if cell in records], grid, settings, store, listener, fresh=fresh)
    rows = _rows(cells, grid, settings, records, timings)
    images = {
        cell.model: SweepImages(cell.model, record.result.source, not record.result.real)
        for cell, record in records.items()
    }
    return SweepDocument(
        rows=compared(rows),
        failures=(*failures, *failed, *late),
        grid=grid.to_dict(),
        images=tuple(images.values()),
        loaded={cell.model: record.result.loaded for cell, record in records.items()},
        environment=environment.collect(),
        command=command,
    )


def _evaluate(
    cells: Sequence[Cell], settings: Settings, store: Store, pool: Pool, listener: Listener, *, fresh: bool
) -> tuple[dict[Cell, Record[Evaluation]], list[SweepFailure]]:
    conditions = settings.evaluation()
    keys = {cell: Key("evaluation", cell, None, conditions) for cell in cells}
    kept = {} if fresh else {cell: store.get(key, Evaluation) for cell, key in keys.items()}
    records = {cell: record for cell, record in kept.items() if record is not None}
    missing = _by_trace(cell for cell in cells if cell not in records)
    if not fresh:
        _tell(store, "evaluation", [keys[cell] for cell in missing], [keys[cell] for cell in records], listener)
    failures: list[SweepFailure] = []
    listener.begin("evaluating", len(missing), len(records))
    start = time.perf_counter()
    for cell, outcome in pool(missing, settings) if missing else ():
        if isinstance(outcome, SweepFailure):
            failures.append(outcome)
            listener.done(str(cell), f"failed: {outcome.reason}", time.perf_counter() - start)
            continue
        records[cell] = outcome
        store.put(keys[cell], outcome)
        found = outcome.result
        said = f"top-1 {found.top1:.1%}" if found.top1 is not None else f"{found.images} images"
        listener.done(str(cell), said, found.seconds)
    return records, failures


def _by_trace(cells: Iterable[Cell]) -> list[Cell]:
    """Sort cells by the first occurrence of their traces: a process holds one trace at a time."""
    groups: dict[Hashable, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.trace, []).append(cell)
    return list(chain.from_iterable(groups.values()))


def _tell(store: Store, kind: str, missing: Sequence[Key], present: Sequence[Key], listener: Listener) -> None:
    for text in store.notes(kind, missing, present):
        listener.note(text)


def _is_reference(cell: Cell) -> bool:
    """True for the cell that all cells of its model are compared with."""
    return cell.full and cell.precision is Precision.FP32


def _time(
    cells: Sequence[Cell], grid: Grid, settings: Settings, store: Store, listener: Listener, *, fresh: bool
) -> tuple[dict[tuple[Cell, int], Record[Timing]], list[SweepFailure]]:
    """Return timings by cell and batch size, and failures."""
    conditions = settings.timing()
    full = {cell.model: cell for cell in cells if _is_reference(cell)}
    clocked = [
        _Timed(cell, batch, Key("timing", cell, batch, conditions))
        for cell in cells
        if cell.precision.runs_on_cpus and cell.model in full
        for batch in grid.batches
    ]
    found = {} if fresh else {(one.cell, one.batch): store.get(one.key, Timing) for one in clocked}
    records = {which: record for which, record in found.items() if record is not None}
    missing = [one for one in clocked if (one.cell, one.batch) not in records]
    if not fresh:
        present = [one.key for one in clocked if (one.cell, one.batch) in records]
        _tell(store, "timing", [one.key for one in missing], present, listener)
    failures: list[SweepFailure] = []
    listener.begin("timing one by one", len(missing), len(records))
    with Stopwatch(settings) as stopwatch:
        for one in missing:
            what, start = f"{one.cell} batch {one.batch}", time.perf_counter()
            try:
                measured = stopwatch.time(one.cell, full[one.cell.model], one.batch, partial(listener.working, what))
            except TofuError as error:
                failures.append(SweepFailure.of(one.cell.model, what, error))
                listener.done(what, f"failed: {error}", time.perf_counter() - start)
                continue
            records[one.cell, one.batch] = Record(measured)
            store.put(one.key, records[one.cell, one.batch])
            said = f"{measured.images_per_sec:.1f} images/s, {measured.speedup_vs_full:.2f}x"
            listener.done(what, said, time.perf_counter() - start)
    return records, failures


def _rows(
    cells: Sequence[Cell],
    grid: Grid,
    settings: Settings,
    records: Mapping[Cell, Record[Evaluation]],
    timings: Mapping[tuple[Cell, int], Record[Timing]],
) -> list[SweepRow]:
    references = {cell.model: record.outputs for cell, record in records.items() if _is_reference(cell)}
    rows = []
    for cell in (cell for cell in cells if cell in records):
        record = records[cell]
        assert record.outputs is not None  # an evaluation has them
        reference = references.get(cell.model)
        agreement = None if reference is None else agreement_of(record.outputs, reference)
        for batch in grid.batches if settings.bench else (None,):
            timing = None if batch is None else timings.get((cell, batch))
            rows.append(row_of(cell, batch, record.result, agreement, None if timing is None else timing.result))
    return rows
