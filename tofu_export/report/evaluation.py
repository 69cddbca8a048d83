"""Document of `tofu-export eval --json`: accuracy, and agreement with the full model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

from tofu_export.compare.agreement import AgreementEntry
from tofu_export.report.document import Skipped
from tofu_export.system.environment import Environment
from tofu_export.system.typed_json import from_plain, optional

__all__ = ["AccuracyDifference", "EvaluatedPlan", "EvaluationDocument", "ScoreEntry", "TimmScore", "UsedLabels"]

Ends = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class TimmScore:
    """Accuracy in percent, named as by timm's `validate.py`; None without labels, top-5 also with too few classes."""

    top1: float | None
    top1_err: float | None
    top5: float | None
    top5_err: float | None


@dataclass(frozen=True, kw_only=True)
class ScoreEntry(TimmScore):
    """Accuracy with the number of images that count, and 95 % intervals."""

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
    """Reassessed labels: their source, the images that count, and those without a class."""

    source: str
    images: int = 0
    without_class: int = 0


@dataclass(frozen=True, kw_only=True)
class EvaluationDocument:
    """Result of an evaluation. The first names and units are those of timm's `validate.py`.

    Attributes:
        model: model or file that was evaluated.
        param_count: parameters in millions; None if unknown.
        img_size: width of an image in pixels.
        crop_pct: share of the resized image that is cut out.
        interpolation: how images are resized.
        kind: kind of document.
        schema_version: version of the document.
        resolved: name of its model; None if the file does not state it.
        loaded: description of the loaded weights, in one line; None for a file without its full model.
        backend: backend that ran it.
        device: device that ran it.
        images: number of images run.
        source: where the images came from.
        labels: source of the labels; None without labels.
        counted: images that count in the accuracy.
        real_labels: the reassessed labels, if used.
        original: accuracy on the classes of the folders, if reassessed labels were used.
        full: the full model's accuracy; None if it did not run.
        difference: top-1 minus the full model's.
        agreement: agreement with the full model.
        plan: the reduction, as in report.json; None for a file that does not state it.
        notes: notes for the reader.
        skipped: steps that were left out.
        seconds: wall time.
        environment: versions and hardware.
        command: the user's command line.
    """

    model: str
    top1: float | None
    top1_err: float | None
    top5: float | None
    top5_err: float | None
    param_count: float | None = None
    img_size: int | None = None
    crop_pct: float | None = None
    interpolation: str | None = None
    kind: Literal["eval"] = "eval"
    schema_version: int
    resolved: str | None
    loaded: str | None = None
    backend: str
    device: str | None = None
    images: int
    source: str
    labels: str | None
    counted: int
    top1_interval: Ends | None
    top5_interval: Ends | None
    real_labels: UsedLabels | None = optional()
    original: TimmScore | None = optional()
    full: ScoreEntry | None
    difference: AccuracyDifference | None
    agreement: AgreementEntry | None
    plan: Mapping[str, object] | None
    notes: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    seconds: float | None = None
    environment: Environment | None = None
    command: str = ""

    @property
    def score(self) -> ScoreEntry:
        """Its accuracy."""
        return ScoreEntry(**{entry.name: getattr(self, entry.name) for entry in fields(ScoreEntry)})

    @property
    def evaluated_plan(self) -> EvaluatedPlan | None:
        """Identity of the reduction; None if the document does not state it."""
        return None if self.plan is None else from_plain(EvaluatedPlan, self.plan, f"plan of {self.model}")
