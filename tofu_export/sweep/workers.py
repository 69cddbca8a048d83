"""Distribute evaluations over processes. A worker that dies loses its cell, not the sweep."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, TypeAlias

from tofu_export.errors import TofuError
from tofu_export.report.sweep import SweepFailure
from tofu_export.sweep.evaluate import evaluate
from tofu_export.sweep.grid import Cell
from tofu_export.sweep.records import Evaluation, Record
from tofu_export.sweep.settings import Settings
from tofu_export.system import environment

__all__ = ["Outcome", "Pool", "attempt", "in_process", "in_processes"]

Outcome: TypeAlias = Record[Evaluation] | SweepFailure

_PATIENCE_S = 10.0

Pool: TypeAlias = Callable[[Sequence[Cell], Settings], "Iterator[tuple[Cell, Outcome]]"]
"""Pool that evaluates cells in any order and yields each with its outcome."""


def attempt(cell: Cell, settings: Settings, threads: int | None = None) -> Outcome:
    """Evaluate a cell; any error becomes a failure with its reason."""
    try:
        return evaluate(cell, settings, threads)
    except TofuError as error:
        return SweepFailure.of(cell.model, str(cell), error)
    except MemoryError:
        return SweepFailure.of(cell.model, str(cell), MemoryError("out of memory: try fewer --jobs"))
    except Exception as error:  # one cell of many: the others continue, and the exit code tells
        return SweepFailure.of(cell.model, str(cell), error)


def in_process(cells: Sequence[Cell], settings: Settings) -> Iterator[tuple[Cell, Outcome]]:
    """Evaluate cells one after the other in this process."""
    for cell in cells:
        yield cell, attempt(cell, settings)


def in_processes(jobs: int) -> Pool:
    """Return a pool that evaluates cells in `jobs` processes that share the cores."""

    def run(cells: Sequence[Cell], settings: Settings) -> Iterator[tuple[Cell, Outcome]]:
        return _spread(list(cells), settings, min(jobs, len(cells)), max(environment.logical_cores() // jobs, 1))

    return run


@dataclass
class _Worker:
    """Worker process, its connection, and its current cell."""

    process: Any  # of the spawn context, whose classes have no public name
    line: Connection
    cell: Cell | None = None

    def stop(self) -> None:
        """End the process: gracefully if it waits for a cell, else at once."""
        self.line.close()
        if self.cell is None:
            self.process.join(_PATIENCE_S)
        self.process.kill()
        self.process.join()


def _spread(waiting: list[Cell], settings: Settings, count: int, threads: int) -> Iterator[tuple[Cell, Outcome]]:
    waiting.reverse()  # the next one is the last
    workers = [_start(settings, threads) for _ in range(count)]
    try:
        for worker in workers:
            _give(worker, waiting)
        while busy := {worker.line: worker for worker in workers if worker.cell is not None}:
            for line in wait(list(busy)):
                worker = busy[line]  # type: ignore[index]  # it holds connections, as it was given
                cell = worker.cell
                assert cell is not None  # only busy workers are waited for
                try:
                    outcome: Outcome = worker.line.recv()
                except (EOFError, OSError):
                    worker.stop()
                    outcome = _death(cell, worker.process.exitcode)
                    if waiting:
                        workers[workers.index(worker)] = worker = _start(settings, threads)
                    else:
                        worker.cell = None
                _give(worker, waiting)
                yield cell, outcome
    finally:
        for worker in workers:
            worker.stop()


def _start(settings: Settings, threads: int) -> _Worker:
    context = multiprocessing.get_context("spawn")  # a fork of a process that has run torch may hang
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, settings, threads), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _give(worker: _Worker, waiting: list[Cell]) -> None:
    worker.cell = waiting.pop() if waiting else None
    if worker.cell is not None:
        with contextlib.suppress(OSError):  # it has ended, which is noticed when waiting for it
            worker.line.send(worker.cell)


def _serve(line: Connection, settings: Settings, threads: int) -> None:
    """Run a worker: receive cells and send outcomes until the connection is closed."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    torch.set_num_threads(threads)
    with contextlib.suppress(EOFError, OSError):  # the parent has closed it, or has ended
        while True:
            line.send(attempt(line.recv(), settings, threads))


def _death(cell: Cell, exit_code: int | None) -> SweepFailure:
    name = signal.Signals(-exit_code).name if exit_code is not None and exit_code < 0 else f"status {exit_code}"
    hint = ": not enough memory? Try fewer --jobs" if name == "SIGKILL" else ""
    return SweepFailure.of(cell.model, str(cell), RuntimeError(f"its process ended with {name}{hint}"))
