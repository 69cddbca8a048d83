"""The generated blocks about the main job, `verify`, `eval`, `analyze` and `tune`, on the demo model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evidence_runs import Made, Runs, Step, table

from tofu_export.compare.outputs import TOLERANCES
from tofu_export.options import Precision

__all__ = ["DEMO_STEPS", "linearity_table"]

README, VERIFICATION, EVIDENCE, TUNING = "../README.md", "verification.md", "evidence.md", "tuning.md"

PRECISIONS = (Precision.FP32, Precision.FP16, Precision.INT8)
JOB = f"tofu-export demo_vit --r 16 --precision {','.join(PRECISIONS)} --no-bench --no-engine -o demo"
VERIFY: Mapping[Precision, str] = {
    precision: f"tofu-export verify demo/model.{precision.value}.onnx --batch 200" for precision in PRECISIONS
}

EVAL = "tofu-export eval demo_vit --r 16"
ANALYZE = "tofu-export analyze demo_vit --limit 64 --steps 16 --figure linearity-demo.svg"
FIGURE = "figures/linearity-demo.svg"
SHOWN_LAYERS = (0, 1, 4, 8, 11)

_TUNE = "tofu-export tune demo_vit --speedup 3 --limit 400 --evaluations 80 --batch 40"
TUNINGS: Mapping[str, str] = {
    "features.json": f"{_TUNE} --objective features -o features.json",
    "seed-1.json": f"{_TUNE} --objective features --seed 1 -o seed-1.json",
    "kl.json": f"{_TUNE} --objective kl -o kl.json",
}
TUNED = "features.json"
PLANS: Mapping[str, str] = {
    "fixed, constant r": "tofu-export eval demo_vit --speedup 3",
    "fixed, linear schedule": "tofu-export eval demo_vit --speedup 3 --schedule linear",
    "tuned on features": f"tofu-export eval demo_vit --plan-file {TUNED}",
}


def _files(runs: Runs) -> Made:
    report = runs.run(JOB)
    gmacs, accuracy = report["plan"]["gmacs"], {row["artifact"]: row for row in report["accuracy"]}
    full = f"{gmacs['full']:.3f} GMACs"
    rows = [("full model, FP32", full, "1.00x", f"{accuracy['full']['top1']:.1%}")]
    for precision in PRECISIONS:
        found = accuracy[f"model.{precision.value}.onnx"]
        less = f"{gmacs['full'] / gmacs['reduced']:.2f}x"
        rows.append((f"r = 16, {precision.upper()}", f"{gmacs['reduced']:.3f} GMACs", less, f"{found['top1']:.1%}"))
    return table(_FILES_COLUMNS, rows), {}


_FILES_COLUMNS = ("ONNX file", "work per image", "less work", "accuracy on 1,000 held-out digits")


def _verified(runs: Runs) -> Made:
    runs.run(JOB)  # writes the files
    rows = []
    for precision, command in VERIFY.items():
        (found,) = runs.run(command)["verification"]
        decisions, limits = found["decisions"], found["tolerance"]
        largest = TOLERANCES[precision].max_error
        rows.append(
            (
                precision.value,
                f"{found['max_abs'] * largest / limits['max_abs']:.1e} of {largest:g}",
                f"{1 - found['cosine_min']:.0e} of {1 - limits['cosine_min']:.0e}",
                f"{decisions['compared']:,}",
                f"{decisions['flips'] / decisions['compared']:.2%}",
                f"{decisions['largest_margin']:.1e} of {limits['near_tie']:g}",
                str(decisions["wrong"]),
            )
        )
    return table(_VERIFIED_COLUMNS, rows), {}


_VERIFIED_COLUMNS = (
    "file", "largest error", "1 - smallest cosine", "decisions", "near ties", "largest margin", "wrong",
)  # fmt: skip


def _eval(runs: Runs) -> Made:
    document = runs.run(EVAL)
    rows = [_judged(name, score) for name, score in (("full", document["full"]), ("r = 16", document))]
    found, difference = document["agreement"], document["difference"]
    said = (
        f"{document['images']:,} digits. Top-1 reduced less full: {difference['top1']:+.2f} points "
        f"({difference['low']:+.2f} to {difference['high']:+.2f}).\n"
        f"Agreement: same class {found['top1_agreement']:.2%}, KL {found['kl_mean']:.4f} nats, cosine of logits "
        f"{found['logit_cosine_mean']:.4f}, of features {found['feature_cosine_mean']:.4f}."
    )
    return f"{table(_EVAL_COLUMNS, rows)}\n\n{said}", {}


_EVAL_COLUMNS = ("model", "top-1", "95 %", "top-5", "95 %")


def _judged(name: str, score: Mapping[str, Any]) -> tuple[str, ...]:
    cells = [name]
    for key in ("top1", "top5"):
        low, high = score[f"{key}_interval"]
        cells += [f"{score[key]:.2f}%", f"{low:.2f} to {high:.2f}"]
    return tuple(cells)


def _linearity(runs: Runs) -> Made:
    document = runs.run(ANALYZE)
    shown = f"![linearity, merged tokens and lengths by layer of the demo model]({FIGURE})"
    said = f"{document['images']} digits, {document['r']} pairs in each layer:"
    text = f"{said}\n\n{linearity_table(document, SHOWN_LAYERS)}\n\n{shown}"
    return text, {FIGURE: runs.file("linearity-demo.svg")}


def linearity_table(document: Mapping[str, Any], layers: Sequence[int]) -> str:
    """Some layers of what `tofu-export analyze` found."""
    norms, rows = document["token_norms"], []
    for layer in layers:
        row = document["layers"][layer]
        rows.append(
            (
                str(layer),
                f"{row['similarity']['mean']:.3f}",
                _spread(row["mlp"]),
                _spread(row["attention"]),
                *(f"{row['merged_norm'][way]['mean']:.3f}" for way in ("average", "mlerp")),
                *(f"{norms[way][layer]:.3f}" for way in ("prune", "average", "mlerp")),
            )
        )
    return table(_LINEARITY_COLUMNS, rows)


_LINEARITY_COLUMNS = (
    "layer", "cosine of keys", "MLP", "attention", "merged / longest, average", "MLERP", "all / full: prune", "average",
    "MLERP",
)  # fmt: skip


def _spread(summary: Mapping[str, float]) -> str:
    return f"{summary['mean']:.3f} ± {summary['std']:.3f}"


def _tune(runs: Runs) -> Made:
    rows, plans = [], []
    for name, command in TUNINGS.items():
        document = runs.run(command)
        losses, difference = document["losses"]["held_out"], document["difference"]
        rows.append(
            (
                f"`{name}`",
                *(f"{document[plan]['gmacs']['reduced']:.4f}" for plan in ("baseline", "plan")),
                *(f"{losses[who]:.5f}" for who in ("baseline", "chosen")),
                f"{difference['low']:+.5f} to {difference['high']:+.5f}",
                document["verdict"],
            )
        )
        amounts = ",".join(str(layer["removed"]) for layer in document["plan"]["layers"])
        plans.append(f"    {name:<14} {document['plan']['pattern']:<13} {amounts}")
    images = document["images"]
    said = (
        f"{images['calibration']} images to search on, {images['validation']} to choose on, {images['held_out']} held "
        f"out; no labels; {document['evaluations']} plans tried. Pattern and r of each layer:"
    )
    return f"{table(_TUNE_COLUMNS, rows)}\n\n{said}\n\n" + "\n".join(plans), {}


_TUNE_COLUMNS = (
    "plan file", "GMACs fixed", "tuned", "held-out loss fixed", "tuned", "difference, 95 %", "tuned plan is",
)  # fmt: skip


def _tuned_agreement(runs: Runs) -> Made:
    runs.run(TUNINGS[TUNED])  # writes the plan file
    rows = []
    for name, command in PLANS.items():
        document = runs.run(command)
        found = document["agreement"]
        rows.append(
            (
                name,
                f"{found['top1_agreement']:.1%}",
                f"{found['kl_mean']:.4f}",
                f"{found['feature_cosine_mean']:.4f}",
                f"{document['top1']:.1f}%",
            )
        )
    return f"{table(_AGREEMENT_COLUMNS, rows)}\n\nFull model: {document['full']['top1']:.1f}%.", {}


_AGREEMENT_COLUMNS = ("plan", "same class", "KL, nats", "cosine of features", "top-1")

DEMO_STEPS: tuple[Step, ...] = (
    Step(README, "files", (JOB,), _FILES_COLUMNS, 1 + len(PRECISIONS), _files),
    Step(VERIFICATION, "verified", (JOB, *VERIFY.values()), _VERIFIED_COLUMNS, len(PRECISIONS), _verified),
    Step(EVIDENCE, "eval", (EVAL,), _EVAL_COLUMNS, 2, _eval),
    Step(EVIDENCE, "linearity", (ANALYZE,), _LINEARITY_COLUMNS, len(SHOWN_LAYERS), _linearity, (FIGURE,)),
    Step(TUNING, "tune", tuple(TUNINGS.values()), _TUNE_COLUMNS, len(TUNINGS), _tune),
    Step(TUNING, "tuned-agreement", tuple(PLANS.values()), _AGREEMENT_COLUMNS, len(PLANS), _tuned_agreement),
)
