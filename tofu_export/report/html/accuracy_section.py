"""Accuracy: what the job measured itself, and what `tofu-export eval` found on images of the user's."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from tofu_export.options import Precision
from tofu_export.report.html.evidence import Evidence
from tofu_export.report.html.evidence_charts import Interval, interval_chart
from tofu_export.report.html.parts import NOTHING, Cell, Chart, Headline, Section, Table, table

__all__ = ["accuracy_headline", "accuracy_section"]

_FULL = "full"


def accuracy_section(report: Mapping[str, Any], evidence: Evidence) -> Section:
    """Top-1 and top-5 with their intervals, beside the full model's, and agreement with it."""
    own, judged = report.get("accuracy", []), evidence.evaluations
    if not own and not judged:
        files = [row["path"] for row in report["artifacts"] if row["kind"] == "onnx"]
        return Section(
            "accuracy", "Accuracy",
            missing="Accuracy was not measured: only the demo model brings labelled images, and no evaluation was "
            "added.",
            hint=f"tofu-export eval {shlex.quote(files[0] if files else 'model.onnx')} --images photos -o eval.json",
        )  # fmt: skip
    lead = []
    if own:
        lead.append(f"The job held {max(row['images'] for row in own):,} labelled images to their classes.")
    if judged:
        sources = "; ".join(dict.fromkeys(f"{row['images']:,} images, {row['source']}" for row in judged))
        lead.append(f"Evaluated on {sources}.")
    intervals = _intervals(judged)
    chart = interval_chart("chart-accuracy", intervals, title="Top-1 accuracy", axis="top-1") if intervals else None
    caption = "Dot: measured. Line: the interval that holds the accuracy on all images of this kind, 95 % of the time."
    tables = [_own(own)] if own else []
    if intervals:
        tables.append(_accuracies(judged))
    if any(row["agreement"] is not None for row in judged):
        tables.append(_agreements(judged))
    return Section(
        "accuracy",
        "Accuracy",
        " ".join(lead),
        charts=() if chart is None else (Chart(chart, caption, (("c-full", "full model"), ("c-merge", "judged"))),),
        tables=tuple(tables),
        notes=tuple(dict.fromkeys(note for row in judged for note in _notes(report, row))),
    )


def accuracy_headline(report: Mapping[str, Any], evidence: Evidence) -> Headline | None:
    """Accuracy after the reduction in FP32, the default, or else in the first file that was judged.

    Measured by the job, or by an evaluation of the same plan.
    """
    own = {row["artifact"]: row for row in report.get("accuracy", [])}
    full = own.pop(_FULL, None)
    if full is not None and own:
        usual = _in_default_precision(report, "artifact", list(own.values()))
        detail = f"{full['top1']:.1%} before it, on {full['images']:,} labelled images; {usual['artifact']}"
        return Headline(f"{usual['top1']:.1%}", "top-1 after the reduction", detail)
    fitting = [
        row
        for row in evidence.evaluations
        if row["top1"] is not None and row["full"] is not None and not _of_another(report, row)
    ]
    if not fitting:
        return None
    usual = _in_default_precision(report, "model", fitting)
    detail = f"{usual['full']['top1']:.1f} % before it, on {usual['counted']:,} labelled images; {usual['model']}"
    return Headline(f"{usual['top1']:.1f} %", "top-1 after the reduction", detail)


def _in_default_precision(report: Mapping[str, Any], name: str, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The first row about a file of FP32, or else the first row; `name` is the field with the file's name."""
    precisions = {entry["path"]: entry["precision"] for entry in report["artifacts"]}
    return next((row for row in rows if precisions.get(row[name]) == Precision.FP32.value), rows[0])


def _own(rows: Sequence[Mapping[str, Any]]) -> Table:
    return table(
        "Top-1 accuracy",
        ("file", "images", "top-1", "backend"),
        [
            [Cell("full model") if row["artifact"] == _FULL else Cell(row["artifact"], code=True),
             f"{row['images']:,}", f"{row['top1']:.1%}", row["backend"]]
            for row in rows
        ],
        text=(0, 3),
    )  # fmt: skip


def _with_full(judged: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Name, accuracy and document of all that was judged on labels, each full model once, before its first one."""
    found: list[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = []
    seen: list[Any] = []
    for row in judged:
        if row["top1"] is None:
            continue
        if row["full"] is not None and (row["source"], row["full"]) not in seen:
            seen.append((row["source"], row["full"]))
            found.append(("full model", row["full"], row))
        found.append((_name(row, judged), row, row))
    return found


def _name(row: Mapping[str, Any], judged: Sequence[Mapping[str, Any]]) -> str:
    """Model or file; with its pattern and r where several have the same name."""
    plan, name = row["plan"], str(row["model"])
    if plan is None or sum(one["model"] == row["model"] for one in judged) < 2:
        return name
    amount = plan["r"]
    return f"{name}, {plan['pattern']}, r {', '.join(map(str, amount)) if isinstance(amount, list) else amount}"


def _intervals(judged: Sequence[Mapping[str, Any]]) -> list[Interval]:
    return [
        Interval(name, score["top1"], low, high, "full" if score is not row else "merge")
        for name, score, row in _with_full(judged)
        for low, high in [score["top1_interval"]]
    ]


def _accuracies(judged: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for name, score, row in _with_full(judged):
        difference = row["difference"] if score is row else None
        rows.append(
            [
                Cell(name, code=score is row),
                row["backend"] if score is row else "torch",
                f"{score['counted']:,}",
                *(text for key in ("top1", "top5") for text in (_percent(score[key]), _ends(score[f"{key}_interval"]))),
                NOTHING if difference is None else f"{difference['top1']:+.2f}",
                NOTHING if difference is None else f"{difference['low']:+.2f} to {difference['high']:+.2f}",
            ]
        )
    head = ("judged", "backend", "images", "top-1", "95 %", "top-5", "95 %", "points to full", "95 %")
    return table("Accuracy on labelled images, with 95 % intervals", head, rows, text=(0, 1))


def _agreements(judged: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for row in judged:
        if (found := row["agreement"]) is None:
            continue
        cosines = [
            NOTHING if found[key] is None else f"{found[key]:.5f}"
            for name in ("logit", "feature")
            for key in (f"{name}_cosine_mean", f"{name}_cosine_min")
        ]
        divergences = [NOTHING if found[key] is None else f"{found[key]:.4f}" for key in ("kl_mean", "kl_max")]
        same = NOTHING if found["top1_agreement"] is None else f"{found['top1_agreement']:.2%}"
        rows.append([Cell(_name(row, judged), code=True), f"{found['images']:,}", same, *divergences, *cosines])
    head = (
        "judged",
        "images",
        "same class",
        "KL, nats",
        "worst",
        "logits, cosine",
        "worst",
        "features, cosine",
        "worst",
    )
    return table("Agreement with the full model on the same images, means and the worst image", head, rows)


def _notes(report: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    name = row["model"]
    notes = [f"{name}: {note}." for note in row["notes"]]
    notes += [f"{name}, {left['step']}: {left['reason']}." for left in row["skipped"]]
    if row["labels"] == "real":
        notes.append(f"{name}: held to reassessed labels ({row['real_labels']['source']}).")
    other = _of_another(report, row)
    return [*notes, f"{name} is of another {other} than this report."] if other else notes


def _of_another(report: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """`model` or `plan` where an evaluation is not of what the report is about; empty if it is."""
    if row["resolved"] != report["model"]["resolved"]:
        return "model"
    plan = row["plan"] or {}
    return "" if all(plan.get(key) == report["plan"][key] for key in ("r", "pattern")) else "plan"


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f} %"


def _ends(interval: Sequence[float] | None) -> str:
    return NOTHING if interval is None else f"{interval[0]:.2f}\u2013{interval[1]:.2f}"
