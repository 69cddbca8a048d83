"""`tofu-export eval`: accuracy on labelled images, agreement with the full model on any."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tofu_export.cli.parameters import command_line, first_given
from tofu_export.cli.reduction import make_reduction, reduction_options
from tofu_export.cli.sections import Section, command, option
from tofu_export.cli.shared_options import (
    class_options,
    image_batch_option,
    images_option,
    json_option,
    limit_option,
    model_option,
    output_option,
    quiet_option,
    seed_option,
    threads_option,
    weights_option,
)
from tofu_export.errors import OptionError

if TYPE_CHECKING:
    from tofu_export.evaluate import EvalRequest, EvalResult
    from tofu_export.options import Reduction
    from tofu_export.zoo.weights import WeightsSource

__all__ = ["eval_command"]

_REDUCTION = frozenset(
    {"r", "keep_rate", "gmacs", "speedup", "exclude_layers", "mode", "prune_layers", "pattern", "schedule", "prop_attn",
     "pruned_sizes", "keys", "restore_grid", "plan_file"}
)  # fmt: skip


@command("eval", short_help="Top-1 and top-5 on a folder of images; agreement with the full model.")
@click.argument("subject", metavar="MODEL|FILE")
@model_option()
@weights_option(None, unless="pretrained, or those that FILE names")
@seed_option("random weights and generated images")
@reduction_options()
@images_option(": one folder per class, as in ImageNet, or images alone", unless="demo_vit's own")
@limit_option()
@image_batch_option(32)
@class_options()
@option(Section.IMAGES, "--ground-truth", type=click.Path(path_type=Path), default=None, metavar="FILE",
        help="Class of each image of a flat folder: lines `image class`, a number from 0 or a name.")  # fmt: skip
@option(Section.IMAGES, "--skip-unreadable", is_flag=True, help="Leave out images that cannot be read, and name them.")
@option(Section.IMAGES, "--real-labels", default=None, metavar="timm|FILE",
        help="Hold ImageNet's validation images to their reassessed labels: timm's, or a JSON file.")  # fmt: skip
@option(Section.CHECK, "--agreement/--no-agreement", "agreement", default=None,
        help="Also run the full model and compare.  [default: if it can be had]")  # fmt: skip
@option(Section.CHECK, "--backend", default=None, metavar="NAME",
        help="What runs FILE: ort-cpu, ort-cuda or ort-tensorrt; trt or trt-rtx for an engine.  "
        "[default: ort-cpu, or the TensorRT that the engine is for]")  # fmt: skip
@threads_option(Section.CHECK)
@output_option("Also write the JSON document there.", "FILE", default=None)
@json_option()
@quiet_option()
def eval_command(
    subject: str,
    images: Path | None,
    batch: int,
    limit: int | None,
    class_map: Path | None,
    class_order: str | None,
    ground_truth: Path | None,
    skip_unreadable: bool,
    labelled: bool,
    real_labels: str | None,
    agreement: bool | None,
    model: str | None,
    weights: WeightsSource | None,
    backend: str | None,
    threads: int | None,
    seed: int,
    image_size: tuple[int, int] | None,
    num_classes: int | None,
    output: Path | None,
    as_json: bool,
    quiet: bool,
    **reduction: Any,
) -> None:
    """Judge MODEL, reduced in eager PyTorch, or an exported ONNX FILE or engine.

    Images are prepared as timm's data config for the model says. Class folders are held to the model's classes by
    their names; images without classes are compared with the full model alone.

    \b
    tofu-export eval vit_base --r 16 --images imagenet/val
    tofu-export eval out/model.fp16.onnx --images imagenet/val --real-labels timm
    tofu-export eval demo_vit --plan-file tuned.json --json
    """  # fmt: skip
    logging.basicConfig(level=logging.ERROR, format="%(name)s: %(message)s")
    chosen = _reduction(subject, reduction)
    from tofu_export.evaluate import ClassOrder, EvalRequest  # imports torch
    from tofu_export.system.files import write_text

    request = EvalRequest(
        subject,
        images=images,
        reduction=chosen,
        model=model,
        weights=weights,
        seed=seed,
        image_size=image_size,
        num_classes=num_classes,
        backend=backend,
        threads=threads,
        batch=batch,
        limit=limit,
        labelled=labelled,
        class_map=class_map,
        class_order=None if class_order is None else ClassOrder(class_order),
        ground_truth=ground_truth,
        skip_unreadable=skip_unreadable,
        real_labels=real_labels,
        agreement=agreement,
    )
    result = _run(request, quiet=quiet)
    text = json.dumps(result.to_dict(command_line()), indent=2, allow_nan=False)
    if output is not None:
        write_text(output, f"{text}\n")
    if not quiet:
        click.echo(_text(result), err=True)
        if output is not None:
            click.echo(f"written: {output}", err=True)
    if as_json:
        click.echo(text)


def _reduction(subject: str, options: dict[str, Any]) -> Reduction | None:
    """The reduction of a model; None for a file, beside which no such option may be given."""
    if not subject.endswith((".onnx", ".engine", ".plan", ".trt")):
        return make_reduction(**options)
    if (given := first_given(_REDUCTION)) is not None:
        raise OptionError(f"{subject} is a file and has its reduction in it: leave out {given}")
    return None


def _run(request: EvalRequest, *, quiet: bool) -> EvalResult:
    from tofu_export.cli.console import listening
    from tofu_export.evaluate import evaluate

    with listening(quiet=quiet, first=f"evaluating {request.subject}") as listener:
        return evaluate(request, lambda done, total: listener.tick(f"{done} of {total} images"))


def _text(result: EvalResult) -> str:
    """The result for people: what was measured on what, then the full model beside the reduced one."""
    subject = result.subject
    removed = "" if subject.plan is None else f", {subject.plan['pattern']}, r = {subject.plan['r']}"
    lines = [f"{subject.label}{removed}, {subject.backend}; {result.images} images, {result.source}"]
    lines += [] if result.loaded is None else [f"  weights: {result.loaded}"]
    if result.labels is not None:
        rows: list[tuple[str, Mapping[str, Any]]] = [
            ("reduced" if result.full is not None else "accuracy", {**result.accuracy, **result.intervals})
        ]
        rows += [] if result.full is None else [("full", result.full)]
        for name, row in rows:
            lines.append(
                f"  {name:<10} top-1 {_percent(row['top1'])}{_between(row['top1_interval'])}   "
                f"top-5 {_percent(row['top5'])}{_between(row['top5_interval'])}"
            )
    if result.difference is not None:
        lines.append(f"  top-1, reduced less full: {result.difference}")
    if result.agreement is not None:
        found = result.agreement.to_dict()
        parts = [
            f"same class {_percent(100 * found['top1_agreement'])}" if found["top1_agreement"] is not None else "",
            f"KL {found['kl_mean']:.4f} nats" if found["kl_mean"] is not None else "",
            f"cosine of logits {found['logit_cosine_mean']:.4f}" if found["logit_cosine_mean"] is not None else "",
            f"of features {found['feature_cosine_mean']:.4f}" if found["feature_cosine_mean"] is not None else "",
        ]
        lines.append(f"  agreement with the full model: {', '.join(part for part in parts if part)}")
    lines += [f"  note: {note}" for note in result.notes]
    lines += [f"  left out: {entry['step']}: {entry['reason']}" for entry in result.skipped]
    return "\n".join(lines)


def _between(interval: list[float] | None) -> str:
    """The ends of a 95 % interval."""
    return "" if interval is None else f" ({interval[0]:.2f} to {interval[1]:.2f})"


def _percent(value: float | int | None) -> str:
    return "-" if value is None else f"{value:.2f} %"
