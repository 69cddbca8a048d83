"""Evaluate a reduced model on images: accuracy if they have classes, agreement with the full model in any case."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tofu_export.compare.agreement import Agreement, ModelOutputs, measure_agreement
from tofu_export.errors import OptionError
from tofu_export.evaluate.accuracy import RealLabels, Score, top_classes
from tofu_export.evaluate.classes import read_class_map
from tofu_export.evaluate.images import ImageBatch, ImageSource, demo_source, folder_source
from tofu_export.evaluate.paired import Paired, from_counts
from tofu_export.evaluate.request import EvalRequest, is_file
from tofu_export.evaluate.subjects import (
    Subject,
    eager_subject,
    file_subject,
    load_eager,
)
from tofu_export.options import Reduction
from tofu_export.report.document import Skipped
from tofu_export.report.evaluation import AccuracyDifference, EvaluationDocument, ScoreEntry, TimmScore, UsedLabels
from tofu_export.system import environment
from tofu_export.system.typed_json import JsonObject, to_object
from tofu_export.verification.pixels import brings_images
from tofu_export.zoo.create import LoadedModel
from tofu_export.zoo.names import DEMO_MODEL
from tofu_export.zoo.weights import WeightsSource

__all__ = ["SCHEMA_VERSION", "EvalResult", "evaluate"]

SCHEMA_VERSION = 1
_PRETRAINED = WeightsSource.parse("pretrained")


@dataclass(frozen=True)
class EvalResult:
    """Result of an evaluation. Percentages are of images that count.

    Attributes:
        subject: model or file that was evaluated.
        images: number of images run.
        source: where the images came from.
        score: accuracy, and images that count.
        labels: kind of labels: `folders`, `real` or `demo`; None without labels.
        real_labels: the reassessed labels; None if they were not asked for.
        original: accuracy on the folders' classes; None without real labels, or without such classes.
        full: the full model's score; None if it did not run.
        difference: top-1 minus that of the full model on the same images; None without labels, or if it did not run.
        agreement: agreement with the full model; None if it did not run.
        notes: notes for the reader.
        skipped: steps left out, and why.
        seconds: wall time.
        loaded: description of the loaded weights, in one line; None for a file without its full model.
    """

    subject: Subject
    images: int
    source: str
    score: ScoreEntry
    labels: str | None
    real_labels: UsedLabels | None
    original: TimmScore | None
    full: ScoreEntry | None
    difference: Paired | None
    agreement: Agreement | None
    notes: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    seconds: float
    loaded: str | None

    def to_dict(self, command: str = "") -> JsonObject:
        """Return the result as JSON; names and units of the first lines are those of timm's `validate.py`."""
        subject, prepared = self.subject, self.subject.preprocessing
        params = subject.param_count
        document = EvaluationDocument(
            model=subject.label,
            **vars(self.score),
            param_count=None if params is None else round(params / 1e6, 2),
            img_size=prepared.input_size[-1],
            crop_pct=prepared.crop_pct,
            interpolation=prepared.interpolation,
            schema_version=SCHEMA_VERSION,
            resolved=subject.origin.name,
            loaded=self.loaded,
            backend=subject.backend,
            device=subject.device,
            images=self.images,
            source=self.source,
            labels=self.labels,
            real_labels=self.real_labels,
            original=self.original,
            full=self.full,
            difference=None if self.difference is None else _in_points(self.difference),
            agreement=None if self.agreement is None else self.agreement.entry(),
            plan=None if subject.plan is None else to_object(subject.plan),
            notes=self.notes,
            skipped=self.skipped,
            seconds=round(self.seconds, 2),
            environment=environment.collect(),
            command=command,
        )
        return to_object(document)


def evaluate(request: EvalRequest, on_progress: Callable[[int, int], None] = lambda done, total: None) -> EvalResult:
    """Run an evaluation.

    Args:
        request: the model and the images.
        on_progress: called with the number of images done and in total.

    Raises:
        OptionError: the images or their classes do not fit the model, an image cannot be read, or options do not fit.
        TofuError: a model or file cannot be loaded or run.
    """
    start = time.perf_counter()
    subject, full, skipped = _subjects(request)
    source, kind = _source(request, subject)
    counters = _Counters(request, subject, full, labelled=source.labels is not None)
    done = 0
    for batch in source.batches(subject.batch or request.batch):
        counters.add(batch)
        done += len(batch.pixels)
        on_progress(done, len(source))
    skipped_images = [f"left out: {reason}" for reason in source.unreadable]
    return EvalResult(
        subject,
        done,
        source.source,
        counters.score("subject").entry(),
        "real" if counters.real is not None else kind,
        counters.real_labels(done),
        counters.original(),
        None if full is None else counters.score("full").entry(),
        counters.difference(),
        None if full is None else Agreement.join(counters.agreements),
        (*source.notes, *skipped_images),
        tuple(skipped),
        time.perf_counter() - start,
        subject.loaded if full is None else full.loaded,
    )


class _Counters:
    """Counters for the subject and the full model, filled batch by batch."""

    def __init__(self, request: EvalRequest, subject: Subject, full: Subject | None, *, labelled: bool) -> None:
        self.real = None if request.real_labels is None else RealLabels.read(request.real_labels)
        classes = subject.num_classes
        if (self.real is not None or labelled) and classes is None:
            raise OptionError(f"{subject.label} gives features, not classes: leave out labels with --no-labels")
        self._subject, self._full, self._labelled = subject, full, labelled
        self._classes = classes or 0
        self._scores = {name: Score(self._classes) for name in ("subject", "full", "subject real", "full real")}
        self._only = {"subject": 0, "full": 0}
        self.agreements: list[Agreement] = []

    def add(self, batch: ImageBatch) -> None:
        """Run both models on a batch."""
        got = self._subject.outputs(batch.pixels)
        right = self._count("subject", got, batch)
        if self._full is not None:
            expected = self._full.outputs(batch.pixels)
            both = list(zip(right, self._count("full", expected, batch), strict=True))
            self._only["subject"] += both.count((True, False))
            self._only["full"] += both.count((False, True))
            self.agreements.append(measure_agreement(got, expected))

    def _count(self, who: str, outputs: ModelOutputs, batch: ImageBatch) -> list[bool]:
        """Count the images of a batch; return whether the best class is right, for each that counts in `score`."""
        right: list[bool] = []
        if outputs.logits is None or not (self._labelled or self.real is not None):
            return right
        best = top_classes(np.asarray(outputs.logits))
        if batch.labels is not None and self._labelled:
            right = self._scores[who].add(best, [[int(label)] for label in batch.labels])
        if self.real is not None:
            right = self._scores[f"{who} real"].add(best, self.real.of(batch.names, self._classes))
        return right

    def score(self, who: str) -> Score:
        """Return the score of `subject` or `full`; against real labels if they were asked for, as in timm."""
        return self._scores[who if self.real is None else f"{who} real"]

    def difference(self) -> Paired | None:
        """Return top-1 of the subject minus that of the full model; None if one of them was not measured."""
        counted = self.score("full").counted
        return from_counts(counted, self._only["subject"], self._only["full"]) if counted else None

    def real_labels(self, images: int) -> UsedLabels | None:
        """Return facts about real labels; None if they were not asked for."""
        return None if self.real is None else self.real.used(self._scores["subject real"], images)

    def original(self) -> TimmScore | None:
        """Return the accuracy on the folders' classes; None if real labels were not asked for."""
        if self.real is None or not self._labelled:
            return None
        score = self._scores["subject"].entry()
        return TimmScore(top1=score.top1, top1_err=score.top1_err, top5=score.top5, top5_err=score.top5_err)


def _source(request: EvalRequest, subject: Subject) -> tuple[ImageSource, str | None]:
    """Return the images, and the kind of their labels."""
    if request.images is not None:
        source = folder_source(
            request.images,
            subject.preprocessing,
            num_classes=subject.num_classes if request.labelled else None,
            class_map=None if request.class_map is None else read_class_map(request.class_map),
            order=request.class_order,
            class_names=subject.labels,
            ground_truth=request.ground_truth,
            skip_unreadable=request.skip_unreadable,
        )
        kind = "folders" if request.ground_truth is None else "ground truth"
    elif brings_images(subject.origin.name, subject.preprocessing):
        source, kind = demo_source(), "demo"
        if not request.labelled or subject.num_classes is None:
            source = replace(source, labels=None)
    else:
        raise OptionError(
            f"no images to judge {subject.label} on: give a folder with --images DIR (one folder per class, or images "
            f"without classes). Only {DEMO_MODEL} brings its own"
        )
    source = source.limited(request.limit)
    return source, None if source.labels is None else kind


def _subjects(request: EvalRequest) -> tuple[Subject, Subject | None, list[Skipped]]:
    """Return the subject, the full model to compare with if there is one, and steps left out."""
    if is_file(request.subject):
        return _file_and_full(request)
    loaded = _load(request, request.subject, request.weights or _PRETRAINED, request.seed)
    full = None
    if request.agreement is not False:
        shared = {id(tensor): tensor for tensor in (*loaded.model.parameters(), *loaded.model.buffers())}
        twin = replace(loaded, model=copy.deepcopy(loaded.model, shared))  # the same weights, another plan
        full = eager_subject(twin, None)
    subject = eager_subject(loaded, request.reduction or Reduction(), num_classes=request.num_classes)
    return subject, full, [] if full is not None else [_left_out("switched off by --no-agreement")]


def _file_and_full(request: EvalRequest) -> tuple[Subject, Subject | None, list[Skipped]]:
    path = Path(request.subject)
    named = None
    if request.model is not None:
        named = _load(request, request.model, request.weights or _PRETRAINED, request.seed)
    subject = file_subject(path, request.backend, request.threads, None if named is None else named.preprocessing)
    if request.agreement is False:
        return subject, None, [_left_out("switched off by --no-agreement")]
    why = None
    if named is None:
        given = None if request.weights is None else request.weights.like(subject.origin.weights)
        found = None if given is None else (given, request.seed)
        found = found or WeightsSource.recorded(subject.origin.weights)
        if subject.origin.name is None:
            why = f"{path.name} does not say what model it is: name it with --model"
        elif found is None:
            why = f"the weights of {path.name} are in a file of yours: give it with --weights PATH"
        else:
            size = request.image_size or subject.origin.image_size
            same = replace(request, image_size=size, num_classes=subject.num_classes)
            named = _load(same, subject.origin.name, *found)
    if named is None:
        if request.agreement:
            raise OptionError(f"no full model to compare with: {why}")
        return subject, None, [_left_out(why or "")]
    full = eager_subject(named, None)
    return replace(subject, param_count=full.param_count), full, []


def _load(request: EvalRequest, name: str, weights: WeightsSource, seed: int) -> LoadedModel:
    return load_eager(
        name, weights=weights, seed=seed, image_size=request.image_size, num_classes=request.num_classes
    )  # fmt: skip


def _in_points(difference: Paired) -> AccuracyDifference:
    """Return a difference of accuracies in percentage points, with its 95 % interval."""
    top1, low, high = (round(100 * value, 4) for value in (difference.difference, difference.low, difference.high))
    return AccuracyDifference(top1, low, high, difference.p_value)


def _left_out(reason: str) -> Skipped:
    return Skipped("agreement with the full model", reason)
