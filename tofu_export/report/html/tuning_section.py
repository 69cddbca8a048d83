"""Tuning section: the plans that `tofu-export tune` tried, its choice per layer, a comparison with the fixed plan."""

from __future__ import annotations

import shlex
from typing import Any

from tofu_export.planning.entry import LayerEntry, PlanEntry
from tofu_export.report.document import VitReport
from tofu_export.report.html.charts import tokens_chart
from tofu_export.report.html.evidence import Evidence
from tofu_export.report.html.evidence_charts import search_chart
from tofu_export.report.html.parts import NOTHING, Cell, Chart, Section, Table, colour_of, table
from tofu_export.report.tuning import TriedPlan, TuningDocument

__all__ = ["tuning_section"]

_LOSSES = {"kl": "KL in nats", "logits": "1 - cosine of logits", "features": "1 - cosine of features", "top1": "top-1"}
_PARTS = (("calibration", "loss on the images of the search"), ("validation", "loss on those of the choice"),
          ("held_out", "loss on those held out"))  # fmt: skip
_AGREEMENT = (("top1_agreement", "same class, held out"), ("kl_mean", "KL in nats, held out"),
              ("logit_cosine_mean", "cosine of logits, held out"),
              ("feature_cosine_mean", "cosine of features, held out"))  # fmt: skip
_VERDICTS = {
    "better": "better than the fixed one",
    "worse": "worse than the fixed one",
    "not told apart": "not told apart from the fixed one",
}


def tuning_section(report: VitReport, evidence: Evidence) -> Section:
    """Return the section on the search, with the chosen plan beside the fixed one."""
    document, title = evidence.tuning, "Tuned plan"
    name = report.model.resolved
    if document is None:
        budget = f"{report.plan.gmacs.reduced:.3g}"
        return Section(
            "tuning", title,
            missing="Whether another plan of the same cost agrees better with the full model was not looked at: no "
            "tuning was added.",
            hint=f"tofu-export tune {shlex.quote(name)} --gmacs {budget} --images photos --json > tune.json",
        )  # fmt: skip
    chosen, fixed = document.plan, document.baseline
    losses = [row.loss for row in document.history]
    taken = next((index for index, row in enumerate(document.history) if _is(row, chosen)), None)
    loss = _LOSSES.get(document.objective, document.objective)
    return Section(
        "tuning",
        title,
        _lead(document),
        charts=(
            Chart(
                search_chart("chart-search", losses, taken, loss),
                "Loss on the images of the search. The choice among the best is made on other images.",
                (("c-full", "a plan"), ("c-merge", "the best so far, and the chosen one"), ("c-prune", "fixed plan")),
            ),
            Chart(
                tokens_chart("chart-tuned", chosen.layers, fixed.layers),
                "Height of a bar: tokens that enter a block. Number: tokens that leave it.",
                (("c-keep", "tokens that leave the block"), ("c-prune", "pruned in it"), ("c-merge", "merged in it"),
                 ("c-ink", "tokens that leave it under the fixed plan")),
            ),
        ),
        tables=(_layers(chosen, fixed), _comparison(document)),
        notes=tuple(_notes(document, report)),
    )  # fmt: skip


def _lead(document: TuningDocument) -> str:
    images, difference = document.images, document.difference
    budget = ", ".join(f"{name} {value:g}" for name, value in document.budget.items())
    rest = (
        f"On {images['held_out']:,} images that played no part in it the tuned plan is "
        f"{_VERDICTS[document.verdict]}: its mean loss differs by {difference.mean:+.2g} "
        f"(95 %: {difference.low:+.2g} to {difference.high:+.2g}; below 0 is better)."
    )
    if _amounts(document.plan) == _amounts(document.baseline):
        rest = "None was better on other images: the fixed plan is the answer."
    return (
        f"{len(document.history):,} plans within {budget} were tried on {images['calibration']:,} images without "
        f"labels, and the best compared on {images['validation']:,} others. {rest}"
    )


def _layers(chosen: PlanEntry, fixed: PlanEntry) -> Table:
    def cells(row: LayerEntry) -> list[Any]:
        return [Cell(row.method if row.removed else NOTHING, colour_of(row)), row.removed, row.tokens_out]

    return table(
        "What each block does under the tuned and the fixed plan",
        ("block", "tuned", "removed", "tokens out", "fixed", "removed", "tokens out"),
        [[one.layer, *cells(one), *cells(other)] for one, other in zip(chosen.layers, fixed.layers, strict=True)],
        text=(0, 1, 4),
    )


def _comparison(document: TuningDocument) -> Table:
    plans = (document.baseline, document.plan)
    rows: list[list[Any]] = [["GMACs per image", *(f"{plan.gmacs.reduced:.4g}" for plan in plans)]]
    for part, name in _PARTS:
        rows.append([name, f"{document.losses[part].baseline:.5f}", f"{document.losses[part].chosen:.5f}"])
    for key, name in _AGREEMENT:
        values = [getattr(document.held_out[who], key) for who in ("baseline", "chosen")]
        if None not in values:
            rows.append([name, *(f"{value:.2%}" if key == "top1_agreement" else f"{value:.5f}" for value in values)])
    if document.latency_ms is not None:
        rows.append(["ms a batch", *(f"{document.latency_ms[who]:.2f}" for who in ("baseline", "chosen"))])
    return table("The tuned plan against the fixed one", ("what", "fixed", "tuned"), rows)


def _notes(document: TuningDocument, report: VitReport) -> list[str]:
    notes = [f"Images: {document.source}. Seed {document.seed}."]
    if document.model != report.model.resolved:
        return [*notes, f"These are of another model: {document.model}."]
    if _amounts(document.plan) == _amounts(report.plan):
        return [*notes, "The files of this report run the tuned plan."]
    return [*notes, "The files of this report run another plan than the tuned one: --plan-file takes that."]


def _is(row: TriedPlan, plan: PlanEntry) -> bool:
    """True if a row of the history is this plan."""
    amounts = tuple(layer.removed for layer in plan.layers)
    same_sizes = row.prop_attn in (None, plan.prop_attn)  # rows of early versions lack it
    return row.r == amounts and row.pattern == plan.pattern and same_sizes


def _amounts(plan: PlanEntry) -> list[tuple[str, int]]:
    """Return method and amount of each layer, with no method if nothing leaves."""
    return [(row.method if row.removed else "", row.removed) for row in plan.layers]
