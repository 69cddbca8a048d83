"""Time one cell against the full model: both files in one process, their runs interleaved, nothing in parallel."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from tofu_export.benchmarking.backends import open_contender
from tofu_export.benchmarking.benchmark import Contender, Rules, run_benchmark
from tofu_export.report.document import FULL
from tofu_export.sweep.evaluate import feeds_for, write_file
from tofu_export.sweep.grid import Cell
from tofu_export.sweep.records import Timing
from tofu_export.sweep.settings import Settings

__all__ = ["Stopwatch"]

_OWN = "cell"


class Stopwatch:
    """Timer of cells, one by one. The full model's file is kept until a cell of another model comes.

    Args:
        settings: settings that the cells share.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = tempfile.TemporaryDirectory(prefix="tofu-export-sweep-")
        self._full: Cell | None = None

    def __enter__(self) -> Stopwatch:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def time(self, cell: Cell, full: Cell, batch: int, on_progress: Callable[[float], None] | None = None) -> Timing:
        """Return the measurement of a cell at a batch size, rounded.

        Args:
            cell: the cell.
            full: the full model in FP32, which speed-ups refer to. It may be the cell itself.
            batch: images per query.
            on_progress: called with the share of the work that is done.

        Raises:
            TofuError: a file cannot be made, loaded or run.
        """
        folder, settings = Path(self._folder.name), self._settings
        full_path, own_path = folder / "full.onnx", folder / "cell.onnx"
        if self._full != full:
            write_file(full, settings, full_path)
            self._full = full
        contenders = [Contender(FULL, full_path)]
        if cell != full:
            write_file(cell, settings, own_path)
            contenders.append(Contender(_OWN, own_path))
        feeds = feeds_for(cell, settings, batch)
        measured = run_benchmark(
            contenders,
            batches=(batch,),
            make_feeds=lambda _: feeds,
            open_runner=open_contender,
            rules=Rules(min_seconds=settings.seconds),
            threads=settings.threads,
            baseline=FULL,
            on_progress=None if on_progress is None else lambda at: on_progress(at.fraction),
        )
        full_speed = measured[0].rounded().images_per_sec
        return Timing(**vars(measured[-1].rounded()), images_per_sec_full=full_speed)
