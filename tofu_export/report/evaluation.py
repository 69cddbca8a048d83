"""Document of `tofu-export eval --json`: accuracy, and agreement with the full model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tofu_export.compare.agreement import AgreementEntry
from tofu_export.report.document import Skipped

__all__ = ["AccuracyDifference", "EvaluatedPlan", "EvaluationDocument", "ScoreEntry", "UsedLabels"]

Ends = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class ScoreEntry:
    """Accuracy in percent with 95 % intervals; None without labels, for top-5 also with too few classes."""

    top1: float | None
    top1_err: float | None
    top5: float | None
    top5_err: float | None
    counted: int
    top1_interval: Ends | None
    top5_interval: Ends | None


@dataclass(frozen=True)
class AccuracyDifference:
    """Difference of top-1 to the full model on the same images, in points, with its 95 % interval."""

    top1: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class EvaluatedPlan:
    """Identity of the plan that was evaluated; the document has more about it."""

    r: int | tuple[int, ...] | None = None
    pattern: str | None = None


@dataclass(frozen=True)
class UsedLabels:
    """Source of reassessed labels."""

    source: str


@dataclass(frozen=True, kw_only=True)
class EvaluationDocument(ScoreEntry):
    """Result of an evaluation, as far as a report shows it.

    Attributes:
        kind: kind of document.
        schema_version: version of the document.
        model: model or file that was evaluated.
        resolved: name of its model; None if the file does not state it.
        backend: backend that ran it.
        images: number of images run.
        source: where the images came from.
        labels: source of the labels; None without labels.
        real_labels: the reassessed labels, if used.
        full: the full model's accuracy; None if it did not run.
        difference: top-1 minus the full model's.
        agreement: agreement with the full model.
        plan: the reduction; None for a file that does not state it.
        notes: notes for the reader.
        skipped: steps that were left out.
    """

    kind: Literal["eval"]
    schema_version: int
    model: str
    resolved: str | None
    backend: str
    images: int
    source: str
    labels: str | None
    real_labels: UsedLabels | None = None
    full: ScoreEntry | None
    difference: AccuracyDifference | None
    agreement: AgreementEntry | None
    plan: EvaluatedPlan | None
    notes: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
