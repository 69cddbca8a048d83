"""The document of `tofu-export eval --json`: accuracy, and agreement with the full model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tofu_export.compare.agreement import AgreementEntry
from tofu_export.report.document import Skipped

__all__ = ["AccuracyDifference", "EvaluatedPlan", "EvaluationDocument", "ScoreEntry", "UsedLabels"]

Ends = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class ScoreEntry:
    """Accuracy in percent with 95 % intervals; None without labels, top-5 also with fewer classes."""

    top1: float | None
    top1_err: float | None
    top5: float | None
    top5_err: float | None
    counted: int
    top1_interval: Ends | None
    top5_interval: Ends | None


@dataclass(frozen=True)
class AccuracyDifference:
    """Top-1 less that of the full model on the same images, in points, with its 95 % interval."""

    top1: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class EvaluatedPlan:
    """What identifies the plan of what was judged; more of it is in the document."""

    r: int | tuple[int, ...] | None = None
    pattern: str | None = None


@dataclass(frozen=True)
class UsedLabels:
    """Where reassessed labels came from."""

    source: str


@dataclass(frozen=True, kw_only=True)
class EvaluationDocument(ScoreEntry):
    """What came out, as far as a report shows it.

    Attributes:
        kind: what this is.
        schema_version: of the document.
        model: model or file that was judged.
        resolved: name of its model; None where the file does not say.
        backend: what ran it.
        images: number of images run.
        source: where they came from.
        labels: what they were held to; None without any.
        real_labels: the reassessed labels that they were held to.
        full: the full model's accuracy; None where it did not run.
        difference: top-1 less the full model's.
        agreement: with the full model.
        plan: the reduction; None for a file that does not say.
        notes: what a reader should know.
        skipped: what was left out.
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
