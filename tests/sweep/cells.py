"""Cells, records and a listener for the tests of the sweep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from tofu_export.options import Precision
from tofu_export.report.measurement import LatencyMs
from tofu_export.report.sweep import SweepFailure
from tofu_export.report.verification import DecisionCounts, ToleranceEntry, Verification
from tofu_export.sweep.grid import Cell
from tofu_export.sweep.records import Evaluation, Record, Timing
from tofu_export.sweep.settings import Settings
from tofu_export.sweep.workers import Outcome

LABELS = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])


def cell(r: int = 8, pattern: str = "PPAA", precision: Precision = Precision.FP32, model: str = "demo_vit") -> Cell:
    removed = (r,) * len(pattern)
    mode = "average" if r else "full"
    return Cell(model, r, mode, pattern if r else "----", removed, r > 0, precision, round(1.0 - r / 100, 4), 1.0)


VERIFIED = Verification(
    artifact="cell.onnx", batches=(1, 3), images=3, inputs="ten images", max_abs=1e-6, cosine_min=1.0,
    top1_agreement=1.0, finite=True, images_with_flips=0, decisions=DecisionCounts(4, 48, 0, 0, 0, 0.0),
    tolerance=ToleranceEntry(name="fp32", max_abs=1e-4, cosine_min=0.99999, near_tie=1e-5, reason="rounding"),
    passed=True,
)  # fmt: skip
EVALUATION = Evaluation(0.5, "ten images", True, 0.9, 1000, VERIFIED, 0.1, "demo.safetensors (timm)", 10)


def timing(images_per_sec: float, speedup: float, full: float = 100.0) -> Timing:
    """Return a timing of batch 8."""
    median, p95 = 8e3 / images_per_sec, 9e3 / images_per_sec
    return Timing(
        artifact="cell", backend="onnxruntime", device="a CPU", batch=8, throughput_qps=images_per_sec / 8,
        images_per_sec=images_per_sec, latency_ms=LatencyMs(median, p95, median, median, p95, p95, p95),
        enqueue_ms=None, h2d_ms=None, gpu_compute_ms=None, d2h_ms=None, walltime_s=1.0, speedup_vs_full=speedup,
        speedup_iqr=(speedup - 0.1, speedup + 0.1), iterations=10, cv_percent=1.0, images_per_sec_full=full,
    )  # fmt: skip


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
            yield one, Record(replace(EVALUATION, top1=float((outputs == LABELS).mean())), outputs)
