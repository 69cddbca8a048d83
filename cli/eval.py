"""`tofu-export eval`: accuracy on labelled images, agreement with the full model on any."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tofu_export.cli.command import Run, command
from tofu_export.evaluate.request import EvalRequest
from tofu_export.options import shared

if TYPE_CHECKING:
    from tofu_export.evaluate.run import EvalResult

__all__ = ["eval_command"]


@dataclass(frozen=True)
class EvalOutput:
    """Options for where the document goes besides stdout."""

    output: Path | None = shared.output("Also write the JSON document there.", "FILE")


@command(
    "eval", short_help="Top-1 and top-5 on a folder of images; agreement with the full model.", quiet="Only errors."
)
def eval_command(request: EvalRequest, written: EvalOutput, run: Run) -> None:
    """Judge MODEL, reduced in eager PyTorch, or an exported ONNX FILE or engine.

    Images are prepared as timm's data config for the model says. Class folders are held to the model's classes by
    their names; images without classes are compared with the full model alone.

    \b
    tofu-export eval vit_base --r 16 --images imagenet/val
    tofu-export eval out/model.fp16.onnx --images imagenet/val --real-labels timm
    tofu-export eval demo_vit --plan-file tuned.json --json
    """  # fmt: skip
    from tofu_export.evaluate.run import evaluate  # imports torch
    from tofu_export.system.files import write_text

    with run.listening(f"evaluating {request.subject}") as listener:
        result = evaluate(request, lambda done, total: listener.tick(f"{done} of {total} images"))
    document = result.to_dict(run.command)
    if written.output is not None:
        write_text(written.output, f"{json.dumps(document, indent=2, allow_nan=False)}\n")
    run.say(_text(result))
    if written.output is not None:
        run.say(f"written: {written.output}")
    run.document(document)


def _text(result: EvalResult) -> str:
    """Return the result as text: what was measured, then the full model beside the reduced one."""
    subject = result.subject
    plan = subject.plan
    removed = "" if plan is None else f", {plan.pattern}{plan.select_words}, r = {plan.r_words}"
    lines = [f"{subject.label}{removed}, {subject.backend}; {result.images} images, {result.source}"]
    lines += [] if result.loaded is None else [f"  weights: {result.loaded}"]
    if result.labels is not None:
        rows = [("reduced" if result.full is not None else "accuracy", result.score)]
        rows += [] if result.full is None else [("full", result.full)]
        for name, row in rows:
            lines.append(
                f"  {name:<10} top-1 {_percent(row.top1)}{_between(row.top1_interval)}   "
                f"top-5 {_percent(row.top5)}{_between(row.top5_interval)}"
            )
    if result.difference is not None:
        lines.append(f"  top-1, reduced less full: {result.difference}")
    if result.agreement is not None:
        found = result.agreement.entry()
        parts = [
            f"same class {_percent(100 * found.top1_agreement)}" if found.top1_agreement is not None else "",
            f"KL {found.kl_mean:.4f} nats" if found.kl_mean is not None else "",
            f"cosine of logits {found.logit_cosine_mean:.4f}" if found.logit_cosine_mean is not None else "",
            f"of features {found.feature_cosine_mean:.4f}" if found.feature_cosine_mean is not None else "",
        ]
        lines.append(f"  agreement with the full model: {', '.join(part for part in parts if part)}")
    lines += [f"  note: {note}" for note in result.notes]
    lines += [f"  left out: {entry.step}: {entry.reason}" for entry in result.skipped]
    return "\n".join(lines)


def _between(interval: tuple[float, float] | None) -> str:
    """Format the ends of a 95 % interval."""
    return "" if interval is None else f" ({interval[0]:.2f} to {interval[1]:.2f})"


def _percent(value: float | int | None) -> str:
    return "-" if value is None else f"{value:.2f} %"
