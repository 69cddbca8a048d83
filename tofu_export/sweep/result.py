"""What a sweep found: a row for each file and batch size, and which rows nothing else beats."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from tofu_export.compare.agreement import cosine_rows
from tofu_export.options import Selection
from tofu_export.sweep.grid import FULL, Cell, Failure, label_of
from tofu_export.system.ort import HALF_THROUGH_CASTS

__all__ = ["Row", "SweepResult", "agreement_of", "compared", "row_of"]

SCHEMA_VERSION = 1
NOT_VERIFIED = "not verified: switched off by --no-verify"


@dataclass(frozen=True)
class Row:
    """One file at one batch size.

    Attributes:
        model: name of the model, as it was asked for.
        r: tokens asked to be removed per layer.
        mode: the mode asked for, `pattern`, or `full`.
        pattern: one letter per layer.
        prop_attn: token sizes enter the attention.
        precision: type of the file.
        batch: images per query; None where nothing was timed.
        gmacs: multiply-accumulates for one image, in 10^9, as the paper counts them.
        gmacs_full: the same of the full model.
        images_per_sec: throughput; None where it was not timed.
        images_per_sec_full: the full model's in the same run, which tells how fast the machine was just then.
        latency_ms: `median` and `p95`; None where it was not timed.
        speedup_vs_full: time of the full model in FP32 divided by this one's, both interleaved; None if not timed.
        speedup_iqr: first and third quartile of that ratio over the rounds; None if not timed.
        agreement: share of the images that get the class that the full model in FP32 gives them; without a classifier
            the mean cosine of their features.
        top1: share of the images whose class is right; None without labels.
        images: how many.
        verified: the file was compared with the eager model and computes the same; where it computes something else
            there is no row.
        comparable_images_per_sec: `speedup_vs_full` times the median of the full model's throughput over all runs: a
            machine that got slower in between does not count against those that came later. None if not timed.
        pareto: no other row is at least as good and as cheap, and better in one of the two.
        notes: what a reader of the numbers must know.
        select: how the tokens that leave were chosen.
    """

    model: str
    r: int
    mode: str
    pattern: str
    prop_attn: bool
    precision: str
    batch: int | None
    gmacs: float
    gmacs_full: float
    images_per_sec: float | None
    images_per_sec_full: float | None
    latency_ms: Mapping[str, float] | None
    speedup_vs_full: float | None
    speedup_iqr: tuple[float, float] | None
    agreement: float | None
    top1: float | None
    images: int
    verified: bool
    comparable_images_per_sec: float | None = None
    pareto: bool = False
    notes: tuple[str, ...] = ()
    select: str = Selection.BIPARTITE.value

    @property
    def quality(self) -> float | None:
        """Accuracy where there are labels, agreement elsewhere."""
        return self.agreement if self.top1 is None else self.top1

    @property
    def label(self) -> str:
        """What tables and charts call it."""
        return FULL if self.mode == FULL else label_of(self.pattern, self.prop_attn, Selection(self.select))

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON values."""
        return {
            **vars(self),
            "latency_ms": None if self.latency_ms is None else dict(self.latency_ms),
            "speedup_iqr": None if self.speedup_iqr is None else list(self.speedup_iqr),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class SweepResult:
    """Everything a sweep found.

    Attributes:
        rows: finished cells, in the order of the grid.
        failures: the others.
        grid: what was asked for.
        sources: where the images of each model come from.
        generated: models that were measured on generated images.
        loaded: what was loaded of each model, in one line.
        environment: versions and hardware.
        command: how the user asked for it.
    """

    rows: tuple[Row, ...]
    failures: tuple[Failure, ...]
    grid: Mapping[str, Any]
    sources: Mapping[str, str]
    generated: tuple[str, ...]
    loaded: Mapping[str, str]
    environment: Mapping[str, Any]
    command: str

    @property
    def timed(self) -> bool:
        """True if any row was timed."""
        return any(row.images_per_sec is not None for row in self.rows)

    @property
    def labelled(self) -> bool:
        """True if every row has an accuracy."""
        return bool(self.rows) and all(row.top1 is not None for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """The document of sweep.json."""
        return {
            "kind": "sweep",
            "schema_version": SCHEMA_VERSION,
            "rows": [row.to_dict() for row in self.rows],
            "failures": [vars(failure) for failure in self.failures],
            "grid": dict(self.grid),
            "images": [
                {"model": model, "source": source, "generated": model in self.generated}
                for model, source in self.sources.items()
            ],
            "loaded": dict(self.loaded),
            "environment": dict(self.environment),
            "command": self.command,
        }


def agreement_of(outputs: NDArray[Any], reference: NDArray[Any]) -> float | None:
    """How far outputs agree with those of the full model: equal classes [n], or the mean cosine of features [n, C].

    None where they are not of the same images.
    """
    if outputs.shape != reference.shape:
        return None
    return float((outputs == reference if outputs.ndim == 1 else cosine_rows(outputs, reference)).mean())


def row_of(
    cell: Cell,
    batch: int | None,
    evaluation: Mapping[str, Any],
    agreement: float | None,
    timing: Mapping[str, Any] | None,
) -> Row:
    """The row of a finished cell; `timing` as in report.json (`benchmark`)."""
    notes = list(timing["notes"]) if timing is not None else []
    if evaluation["verification"] is None:
        notes.append(NOT_VERIFIED)
    if timing is None and batch is not None and not cell.precision.runs_on_cpus:
        notes.append(f"not timed: {HALF_THROUGH_CASTS}")
    if cell.precision.calibrated and not evaluation["real"]:
        notes.append(f"{cell.precision.value} was calibrated on generated images")
    return Row(
        model=cell.model,
        r=cell.r,
        mode=cell.mode,
        pattern=cell.pattern,
        prop_attn=cell.prop_attn,
        precision=cell.precision.value,
        batch=batch,
        gmacs=cell.gmacs,
        gmacs_full=cell.gmacs_full,
        images_per_sec=None if timing is None else timing["images_per_sec"],
        images_per_sec_full=None if timing is None else timing["images_per_sec_full"],
        latency_ms=None if timing is None else {name: timing["latency_ms"][name] for name in ("median", "p95")},
        speedup_vs_full=None if timing is None else timing["speedup_vs_full"],
        speedup_iqr=None if timing is None else tuple(timing["speedup_iqr"]),
        agreement=agreement,
        top1=evaluation["top1"],
        images=evaluation["images"],
        verified=evaluation["verification"] is not None,
        notes=tuple(notes),
        select=cell.select.value,
    )


def compared(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows with `comparable_images_per_sec` and `pareto` set."""
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


def _with_pareto(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows with `pareto` set.

    The cost is the time for an image where it was measured, GMACs elsewhere. Rows compete within their batch size;
    those without labels within their model as well, since agreement with one model says nothing about another.
    """

    def arena(row: Row) -> tuple[Any, ...]:
        return (row.batch, row.speedup_vs_full is not None, None if row.top1 is not None else row.model)

    def cost(row: Row) -> float:
        return row.gmacs if row.comparable_images_per_sec is None else 1 / row.comparable_images_per_sec

    def beaten(row: Row) -> bool:
        for other in rows:
            if arena(other) != arena(row) or other.quality is None or row.quality is None:
                continue
            no_worse = cost(other) <= cost(row) and other.quality >= row.quality
            if no_worse and (cost(other) < cost(row) or other.quality > row.quality):
                return True
        return False

    return tuple(replace(row, pareto=row.quality is not None and not beaten(row)) for row in rows)
