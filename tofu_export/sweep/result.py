"""Rows of a sweep, one for each file and batch size, and their Pareto front."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from tofu_export.compare.agreement import cosine_rows
from tofu_export.compare.pareto import pareto_front
from tofu_export.report.sweep import SweepRow
from tofu_export.sweep.grid import Cell
from tofu_export.sweep.records import Evaluation, Timing
from tofu_export.system.ort import HALF_THROUGH_CASTS

__all__ = ["agreement_of", "compared", "row_of"]

NOT_VERIFIED = "not verified: switched off by --no-verify"


def agreement_of(outputs: NDArray[Any], reference: NDArray[Any]) -> float | None:
    """Return the agreement with the full model: share of equal classes [n], or mean cosine of features [n, C].

    The result is None if the outputs are not of the same images.
    """
    if outputs.shape != reference.shape:
        return None
    return float((outputs == reference if outputs.ndim == 1 else cosine_rows(outputs, reference)).mean())


def row_of(
    cell: Cell,
    batch: int | None,
    evaluation: Evaluation,
    agreement: float | None,
    timing: Timing | None,
) -> SweepRow:
    """Return the row of a finished cell."""
    notes = list(timing.notes) if timing is not None else []
    if evaluation.verification is None:
        notes.append(NOT_VERIFIED)
    if timing is None and batch is not None and not cell.precision.runs_on_cpus:
        notes.append(f"not timed: {HALF_THROUGH_CASTS}")
    if cell.precision.calibrated and not evaluation.real:
        notes.append(f"{cell.precision.value} was calibrated on generated images")
    return SweepRow(
        model=cell.model,
        r=cell.r,
        mode=cell.mode,
        pattern=cell.pattern,
        prop_attn=cell.prop_attn,
        precision=cell.precision.value,
        batch=batch,
        gmacs=cell.gmacs,
        gmacs_full=cell.gmacs_full,
        images_per_sec=None if timing is None else timing.images_per_sec,
        images_per_sec_full=None if timing is None else timing.images_per_sec_full,
        latency_ms=None if timing is None else {"median": timing.latency_ms.median, "p95": timing.latency_ms.p95},
        speedup_vs_full=None if timing is None else timing.speedup_vs_full,
        speedup_iqr=None if timing is None else timing.speedup_iqr,
        agreement=agreement,
        top1=evaluation.top1,
        images=evaluation.images,
        verified=evaluation.verification is not None,
        notes=tuple(notes),
        select=cell.select,
    )


def compared(rows: Sequence[SweepRow]) -> tuple[SweepRow, ...]:
    """Return the rows with `comparable_images_per_sec` and `pareto` set."""
    speeds: dict[tuple[str, int | None], list[float]] = defaultdict(list)
    for row in rows:
        if row.images_per_sec_full is not None:
            speeds[row.model, row.batch].append(row.images_per_sec_full)
    return _with_pareto(
        [
            row
            if row.speedup_vs_full is None
            else replace(
                row,
                comparable_images_per_sec=row.speedup_vs_full * statistics.median(speeds[row.model, row.batch]),
            )
            for row in rows
        ]
    )


def _with_pareto(rows: Sequence[SweepRow]) -> tuple[SweepRow, ...]:
    """Return the rows with `pareto` set.

    The cost is the time for an image if measured, else GMACs. Rows compete within their batch size;
    those without labels within their model as well, since agreement with one model says nothing about another.
    """

    def arena(row: SweepRow) -> tuple[object, ...]:
        return (row.batch, row.speedup_vs_full is not None, None if row.top1 is not None else row.model)

    def cost(row: SweepRow) -> float:
        return row.gmacs if row.comparable_images_per_sec is None else 1 / row.comparable_images_per_sec

    arenas: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        if row.quality is not None:
            arenas[arena(row)].append(index)
    best = {
        index
        for members in arenas.values()
        for index in pareto_front(members, lambda one: cost(rows[one]), lambda one: rows[one].quality or 0.0)
    }
    return tuple(replace(row, pareto=index in best) for index, row in enumerate(rows))
