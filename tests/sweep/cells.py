"""Cells, records and a listener for the tests of the sweep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tofu_export.options import Precision
from tofu_export.report.sweep import SweepFailure
from tofu_export.sweep.evaluate import Evaluation
from tofu_export.sweep.grid import Cell
from tofu_export.sweep.settings import Settings
from tofu_export.sweep.workers import Outcome

LABELS = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])


def cell(r: int = 8, pattern: str = "PPAA", precision: Precision = Precision.FP32, model: str = "demo_vit") -> Cell:
    removed = (r,) * len(pattern)
    mode = "average" if r else "full"
    return Cell(model, r, mode, pattern if r else "----", removed, r > 0, precision, round(1.0 - r / 100, 4), 1.0)


def evaluation(outputs: NDArray[Any], top1: float | None = 0.5, *, real: bool = True) -> Evaluation:
    return Evaluation(outputs, top1, "ten images", real, 0.9, 1000, {"passed": True}, 0.1, "demo.safetensors (timm)")


def timing(images_per_sec: float, speedup: float, full: float = 100.0) -> dict[str, Any]:
    return {
        "images_per_sec": images_per_sec,
        "images_per_sec_full": full,
        "latency_ms": {"median": 8e3 / images_per_sec, "p95": 9e3 / images_per_sec},
        "speedup_vs_full": speedup,
        "speedup_iqr": (speedup - 0.1, speedup + 0.1),
        "notes": [],
    }


class Heard:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int, int]] = []
        self.results: list[tuple[str, str]] = []
        self.notes: list[str] = []

    def begin(self, stage: str, todo: int, finished: int) -> None:
        self.stages.append((stage, todo, finished))

    def working(self, what: str, fraction: float) -> None: ...

    def done(self, what: str, result: str, seconds: float) -> None:
        self.results.append((what, result))

    def note(self, text: str) -> None:
        self.notes.append(text)


class FakePool:
    """Evaluates without a model: the r of a cell is the number of images that it gets wrong."""

    def __init__(self, failing: Sequence[str] = (), stop_before: int | None = None) -> None:
        self.failing = failing
        self.stop_before = stop_before
        self.evaluated: list[str] = []

    def __call__(self, cells: Sequence[Cell], settings: Settings) -> Iterator[tuple[Cell, Outcome]]:
        for one in cells:
            if len(self.evaluated) == self.stop_before:
                raise KeyboardInterrupt
            self.evaluated.append(str(one))
            if str(one) in self.failing:
                yield one, SweepFailure(one.model, str(one), "ExportError", "it did not work", 3)
                continue
            outputs = LABELS.copy().astype(np.int32)
            outputs[: one.r // 4] = 9
            yield one, evaluation(outputs, float((outputs == LABELS).mean()))
