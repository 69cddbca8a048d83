"""The steps of `evidence.py`: for each generated block of the docs its page, commands, shape, and how it is made."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from evidence_demo import DEMO_STEPS
from evidence_order import COMPARISONS, order_block, order_columns
from evidence_runs import Made, Runs, Step, table

from tofu_export import demo
from tofu_export.evaluate.paired import Paired, compare
from tofu_export.options import Reduction
from tofu_export.report.sweep import compact
from tofu_export.sweep.grid import expand_pattern
from tofu_export.zoo.specs import plan_model

__all__ = ["STEPS"]

PAPER = "paper.md"
AMOUNTS = (8, 16, 24, 32, 48)
SPLIT_AMOUNTS = (32, 48)
DEPTH = 12
METHODS = ("P3W9", "P6M6", "P6A6", "W12", "M12", "A12", "P12", "M6P6", "A6P6", "T12")

SPLITS = f"tofu-export sweep demo_vit --r {','.join(map(str, SPLIT_AMOUNTS))} --split PA,AP --no-bench"
MODES = f"tofu-export sweep demo_vit --r {','.join(map(str, AMOUNTS))} --pattern {','.join(METHODS)} --no-bench"
PARETO = "tofu-export sweep demo_vit --r 8,16,32,48 --mode weighted-mlerp,average --batch 8 --seconds 2"

PAPER_GMACS: Mapping[str, Mapping[int, float]] = {
    "vit_base": {0: 17.58, 8: 13.12, 12: 10.93, 16: 8.78, 20: 7.14},
    "vit_large": {0: 61.60, 8: 30.99, 12: 20.90, 16: 15.86, 20: 12.86},
    "vit_small": {0: 4.6, 13: 2.7},
}
"""GMACs in the paper's tables, by model and r; ViT-S with one decimal."""


def _gmacs(_: Runs) -> Made:
    rows = []
    for model, known in PAPER_GMACS.items():
        for r, theirs in known.items():
            plan = plan_model(model, Reduction(r=r))[1]
            ours = plan.gmacs_reduced
            digits = 1 if model == "vit_small" else 2
            rows.append((model, str(r), f"{theirs:.{digits}f}", f"{ours:.{digits}f}", f"{plan.flop_ratio:.2f}x"))
    return table(("model", "r", "paper", "here", "less work"), rows), {}


def _splits(runs: Runs) -> Made:
    rows = runs.sweep(SPLITS)["rows"]
    top1 = {(row["pattern"], row["r"]): row["top1"] for row in rows}
    lines = []
    for d in range(DEPTH + 1):
        cells = [str(d)]
        for first, second in ("PA", "AP"):
            pattern = first * d + second * (DEPTH - d)
            cells += [f"`{compact(pattern)}`", *(f"{top1[pattern, r]:.1%}" for r in SPLIT_AMOUNTS)]
        lines.append(cells)
    best = []
    for r in SPLIT_AMOUNTS:
        most, pattern = max((accuracy, pattern) for (pattern, amount), accuracy in top1.items() if amount == r)
        best.append(f"r = {r}: `{compact(pattern)}` {most:.1%}")
    said = f"Full model: {rows[0]['top1']:.1%}. Best of all: {'; '.join(best)}."
    return f"{table(_SPLIT_COLUMNS, lines)}\n\n{said}", {}


_SPLIT_COLUMNS = (
    "d", "first prune", *(f"r = {r}" for r in SPLIT_AMOUNTS), "first average", *(f"r = {r}" for r in SPLIT_AMOUNTS),
)  # fmt: skip


def _methods(runs: Runs) -> Made:
    rows = runs.sweep(MODES)["rows"]
    found = {(compact(row["pattern"]), row["r"]): row for row in rows}
    lines = [
        ["GMACs", *(f"{found[METHODS[0], r]['gmacs']:.3f}" for r in AMOUNTS)],
        *([f"`{name}`", *(f"{found[name, r]['top1']:.1%}" for r in AMOUNTS)] for name in METHODS),
    ]
    full = rows[0]
    said = f"Full model ({full['gmacs_full']:.3f} GMACs): top-1 {full['top1']:.1%}, on {full['images']} images."
    return f"{said}\n\n{table(('pattern', *(f'r = {r}' for r in AMOUNTS)), lines)}", {}


def _order(runs: Runs) -> Made:
    runs.sweep(MODES)
    labels = demo.load_images()[1].astype(np.int64)
    pairs: dict[int, list[Paired]] = {}
    for r in AMOUNTS:
        by_name = {name: runs.decisions(expand_pattern(name), r) for name in METHODS}
        pairs[r] = [compare(by_name[better], by_name[worse], labels) for better, worse in COMPARISONS]
    return order_block(pairs), {}


def _pareto(runs: Runs) -> Made:
    document = runs.sweep(PARETO)
    rows = [row for row in document["rows"] if row["images_per_sec"] is not None]
    lines = [
        (
            str(row["r"]),
            "full" if row["mode"] == "full" else f"`{compact(row['pattern'])}`",
            f"{row['gmacs']:.3f}",
            f"{row['comparable_images_per_sec']:.0f}",
            f"{row['speedup_vs_full']:.2f}x ({row['speedup_iqr'][0]:.2f}-{row['speedup_iqr'][1]:.2f})",
            f"{row['top1']:.1%}",
            "yes" if row["pareto"] else "no",
        )
        for row in rows
    ]
    versions, environment = document["environment"]["versions"], document["environment"]
    where = (
        f"{environment['cpu']}, {environment['logical_cores']} cores; onnxruntime {versions['onnxruntime']}, FP32, "
        "batch 8. "
        "A gain is the median over interleaved rounds, with its first and third quartile."
    )
    text = f"![accuracy against speed]({PARETO_FIGURE})\n\n{table(_PARETO_COLUMNS, lines)}\n\n{where}"
    return text, {PARETO_FIGURE: document["figure"]}


PARETO_FIGURE = "images/paper-pareto.svg"
_PARETO_COLUMNS = ("r", "pattern", "GMACs", "images/s", "against full", "top-1", "not beaten")


STEPS: tuple[Step, ...] = (
    Step(
        PAPER, "gmacs", ("tofu-export sweep vit_base vit_large --r 8,12,16,20 --dry-run",
                         "tofu-export sweep vit_small --r 13 --dry-run"),
        ("model", "r", "paper", "here", "less work"), 12, _gmacs,
    ),
    Step(PAPER, "splits", (SPLITS,), _SPLIT_COLUMNS, DEPTH + 1, _splits),
    Step(PAPER, "methods", (MODES,), ("pattern", *(f"r = {r}" for r in AMOUNTS)), len(METHODS) + 1, _methods),
    Step(PAPER, "order", (MODES,), order_columns(COMPARISONS), len(AMOUNTS), _order),
    Step(PAPER, "pareto", (PARETO,), _PARETO_COLUMNS, 9, _pareto, (PARETO_FIGURE,)),
    *DEMO_STEPS,
)  # fmt: skip
"""Every generated block of the docs, in the order in which they are made."""
