"""Accuracy section: results of the job itself, and of `tofu-export eval` on the user's images."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from tofu_export.options import Precision
from tofu_export.planning.entry import amount_words
from tofu_export.report.document import FULL, Accuracy, VitReport
from tofu_export.report.evaluation import EvaluatedPlan, EvaluationDocument, ScoreEntry
from tofu_export.report.html.evidence import Evidence
from tofu_export.report.html.evidence_charts import Interval, interval_chart
from tofu_export.report.html.parts import NOTHING, Cell, Chart, Headline, Section, Table, table

__all__ = ["accuracy_headline", "accuracy_section"]


def accuracy_section(report: VitReport, evidence: Evidence) -> Section:
    """Return the section with top-1, top-5 and their intervals, beside the full model, and agreement with it."""
    own, judged = report.accuracy, evidence.evaluations
    if not own and not judged:
        files = [row.path for row in report.artifacts if row.kind == "onnx"]
        return Section(
            "accuracy", "Accuracy",
            missing="Accuracy was not measured: only the demo model brings labelled images, and no evaluation was "
            "added.",
            hint=f"tofu-export eval {shlex.quote(files[0] if files else 'model.onnx')} --images photos -o eval.json",
        )  # fmt: skip
    lead = []
    if own:
        lead.append(f"The job held {max(row.images for row in own):,} labelled images to their classes.")
    if judged:
        sources = "; ".join(dict.fromkeys(f"{row.images:,} images, {row.source}" for row in judged))
        lead.append(f"Evaluated on {sources}.")
    intervals = _intervals(judged)
    chart = interval_chart("chart-accuracy", intervals, title="Top-1 accuracy", axis="top-1") if intervals else None
    caption = "Dot: measured. Line: the interval that holds the accuracy on all images of this kind, 95 % of the time."
    tables = [_own(own)] if own else []
    if intervals:
        tables.append(_accuracies(judged))
    if any(row.agreement is not None for row in judged):
        tables.append(_agreements(judged))
    return Section(
        "accuracy",
        "Accuracy",
        " ".join(lead),
        charts=() if chart is None else (Chart(chart, caption, (("c-full", "full model"), ("c-merge", "judged"))),),
        tables=tuple(tables),
        notes=tuple(dict.fromkeys(note for row in judged for note in _notes(report, row))),
    )


def accuracy_headline(report: VitReport, evidence: Evidence) -> Headline | None:
    """Return the accuracy after the reduction in FP32, the default, or else in the first evaluated file.

    The value is from the job, or from an evaluation of the same plan.
    """
    own = {row.artifact: row for row in report.accuracy}
    full = own.pop(FULL, None)
    if full is not None and own:
        best = own[_in_default_precision(report, list(own))]
        detail = f"{full.top1:.1%} before it, on {full.images:,} labelled images; {best.artifact}"
        return Headline(f"{best.top1:.1%}", "top-1 after the reduction", detail)
    fitting = {
        row.model: (row.top1, row.full.top1, row.counted)
        for row in reversed(evidence.evaluations)
        if row.top1 is not None and row.full is not None and not _of_another(report, row)
    }
    if not fitting:
        return None
    name = _in_default_precision(report, list(reversed(fitting)))
    top1, before, counted = fitting[name]
    detail = f"{before:.1f} % before it, on {counted:,} labelled images; {name}"
    return Headline(f"{top1:.1f} %", "top-1 after the reduction", detail)


def _in_default_precision(report: VitReport, names: Sequence[str]) -> str:
    """Return the first of these files in FP32, or else the first file."""
    precisions = {file.path: file.precision for file in report.artifacts}
    return next((name for name in names if precisions.get(name) is Precision.FP32), names[0])


def _own(rows: Sequence[Accuracy]) -> Table:
    return table(
        "Top-1 accuracy",
        ("file", "images", "top-1", "backend"),
        [
            [Cell("full model") if row.artifact == FULL else Cell(row.artifact, code=True),
             f"{row.images:,}", f"{row.top1:.1%}", row.backend]
            for row in rows
        ],
        text=(0, 3),
    )  # fmt: skip


def _with_full(judged: Sequence[EvaluationDocument]) -> list[tuple[str, ScoreEntry, EvaluationDocument]]:
    """Return name, accuracy and document of every labelled evaluation, each full model once, before its reductions."""
    found: list[tuple[str, ScoreEntry, EvaluationDocument]] = []
    seen: list[tuple[str, ScoreEntry]] = []
    for row in judged:
        if row.top1 is None:
            continue
        if row.full is not None and (row.source, row.full) not in seen:
            seen.append((row.source, row.full))
            found.append(("full model", row.full, row))
        found.append((_name(row, judged), row.score, row))
    return found


def _name(row: EvaluationDocument, judged: Sequence[EvaluationDocument]) -> str:
    """Return the name of the model or file, with pattern and r if several have this name."""
    plan = row.evaluated_plan
    if plan is None or plan.r is None or sum(one.model == row.model for one in judged) < 2:
        return row.model
    return f"{row.model}, {plan.pattern}, r {amount_words(plan.r)}"


def _intervals(judged: Sequence[EvaluationDocument]) -> list[Interval]:
    return [
        Interval(name, score.top1, *score.top1_interval, "full" if score is row.full else "merge")
        for name, score, row in _with_full(judged)
        if score.top1 is not None and score.top1_interval is not None
    ]


def _accuracies(judged: Sequence[EvaluationDocument]) -> Table:
    rows = []
    for name, score, row in _with_full(judged):
        reduced = score is not row.full
        difference = row.difference if reduced else None
        rows.append(
            [
                Cell(name, code=reduced),
                row.backend if reduced else "torch",
                f"{score.counted:,}",
                _percent(score.top1), _ends(score.top1_interval), _percent(score.top5), _ends(score.top5_interval),
                NOTHING if difference is None else f"{difference.top1:+.2f}",
                NOTHING if difference is None else f"{difference.low:+.2f} to {difference.high:+.2f}",
            ]
        )  # fmt: skip
    head = ("judged", "backend", "images", "top-1", "95 %", "top-5", "95 %", "points to full", "95 %")
    return table("Accuracy on labelled images, with 95 % intervals", head, rows, text=(0, 1))


def _agreements(judged: Sequence[EvaluationDocument]) -> Table:
    rows = []
    for row in judged:
        if (found := row.agreement) is None:
            continue
        cosines = (
            found.logit_cosine_mean, found.logit_cosine_min, found.feature_cosine_mean, found.feature_cosine_min,
        )  # fmt: skip
        rows.append(
            [
                Cell(_name(row, judged), code=True),
                f"{found.images:,}",
                NOTHING if found.top1_agreement is None else f"{found.top1_agreement:.2%}",
                *(NOTHING if value is None else f"{value:.4f}" for value in (found.kl_mean, found.kl_max)),
                *(NOTHING if value is None else f"{value:.5f}" for value in cosines),
            ]
        )
    head = (
        "judged", "images", "same class", "KL, nats", "worst", "logits, cosine", "worst", "features, cosine", "worst",
    )  # fmt: skip
    return table("Agreement with the full model on the same images, means and the worst image", head, rows)


def _notes(report: VitReport, row: EvaluationDocument) -> list[str]:
    notes = [f"{row.model}: {note}." for note in row.notes]
    notes += [f"{row.model}, {left.step}: {left.reason}." for left in row.skipped]
    if row.real_labels is not None:
        notes.append(f"{row.model}: held to reassessed labels ({row.real_labels.source}).")
    other = _of_another(report, row)
    return [*notes, f"{row.model} is of another {other} than this report."] if other else notes


def _of_another(report: VitReport, row: EvaluationDocument) -> str:
    """Return `model` or `plan` if an evaluation differs from the report in it; empty if in neither."""
    if row.resolved != report.model.resolved:
        return "model"
    return "" if row.evaluated_plan == EvaluatedPlan(report.plan.r, report.plan.pattern) else "plan"


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f} %"


def _ends(interval: Sequence[float] | None) -> str:
    return NOTHING if interval is None else f"{interval[0]:.2f}\u2013{interval[1]:.2f}"
