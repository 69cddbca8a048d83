"""`tofu-export MODEL`: the main job."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tofu_export.cli.parameters import command_line, parse_batches, parse_names, read_labels
from tofu_export.cli.reduction import make_reduction, reduction_options
from tofu_export.cli.sections import Section, command, option
from tofu_export.cli.shared_options import (
    bench_options,
    bundle_option,
    capability_option,
    dry_run_option,
    images_option,
    json_option,
    onnx_options,
    output_kind_option,
    output_option,
    preprocessing_options,
    quiet_option,
    seed_option,
    served_batch_option,
    verbose_option,
    verify_option,
    weights_option,
)
from tofu_export.options import PATCH_GROUPS, BatchRange, IoType, OutputKind, Target, parse_precisions

if TYPE_CHECKING:
    from tofu_export.job.request import Job
    from tofu_export.zoo.weights import WeightsSource

__all__ = ["export_command"]


@command("export", short_help="Export a model: ONNX, verification, benchmark, engines, report.")
@click.argument("model")
@weights_option()
@preprocessing_options()
@reduction_options()
@output_kind_option("logits, or features without a classifier")
@option(Section.MODEL, "--token-map", is_flag=True,
        help=f"One more output, {PATCH_GROUPS}: the token that each input patch ended in, -1 if pruned.")  # fmt: skip
@seed_option("random weights and generated images")
@served_batch_option("1:8:64")
@option(Section.FILES, "--precision", default="fp32,fp16", show_default=True, metavar="LIST",
        help="Some of fp32, fp16, bf16, int8 (CPUs), int8-fp16, fp8 (engines): one file each.")  # fmt: skip
@onnx_options()
@option(Section.FILES, "--labels", type=click.Path(path_type=Path), default=None, metavar="FILE",
        help="Class names to store in the files, one per line.")  # fmt: skip
@verify_option()
@images_option(" to verify and calibrate int8 and fp8 with", unless="demo_vit's own; for others generated ones",
               section=Section.CHECK)  # fmt: skip
@option(Section.ENGINE, "--engine/--no-engine", "engine", default=None,
        help="Build TensorRT engines.  [default: if a TensorRT is installed]")  # fmt: skip
@capability_option()
@bench_options(default=True)
@output_option("Folder for the files.  [default: MODEL-tofu]", "DIR", default=None)
@bundle_option()
@json_option()
@dry_run_option()
@quiet_option()
@verbose_option("operator counts and messages of libraries")
def export_command(
    model: str,
    weights: WeightsSource,
    batch: str,
    precision: str,
    target: str,
    opset: int,
    io_dtype: str,
    output_kind: str | None,
    token_map: bool,
    images: Path | None,
    labels: Path | None,
    engine: bool | None,
    compute_capability: str,
    verify: bool,
    bench: bool,
    bench_batch: str,
    threads: int | None,
    seed: int,
    output: Path | None,
    bundle: Path | None,
    as_json: bool,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
    image_size: tuple[int, int] | None,
    num_classes: int | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    interpolation: str | None,
    crop_pct: float | None,
    **reduction: Any,
) -> None:
    """Reduce MODEL (a timm name, vit_tiny|small|base|large, or demo_vit) and export it.

    Writes ONNX files, TensorRT engines where a TensorRT is installed, report.json, report.md and report.html.

    \b
    tofu-export vit_base --r 16 --mode mlerp
    tofu-export vit_base --speedup 1.8 --weights vit_base.pth --precision fp16 -o out
    tofu-export demo_vit --plan-file tuned.json --no-engine
    """  # fmt: skip
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(name)s: %(message)s")
    chosen = make_reduction(**reduction)
    batches, precisions = BatchRange.parse(batch), parse_precisions(precision)
    from tofu_export.job.request import Job  # imports torch: only after the cheap checks
    from tofu_export.zoo.preprocessing import Preprocessing

    job = Job(
        model=model,
        output=output if output is not None else Path(f"{Path(model).name.replace(':', '-')}-tofu"),
        reduction=chosen,
        output_kind=None if output_kind is None else OutputKind(output_kind),
        token_map=token_map,
        weights=weights,
        image_size=image_size,
        num_classes=num_classes,
        preprocessing=Preprocessing(mean, std, interpolation, crop_pct),
        batch=batches,
        precisions=precisions,
        target=Target(target),
        opset=opset,
        io_type=IoType(io_dtype),
        images=images,
        labels=read_labels(labels),
        engine=engine,
        compute_capabilities=parse_names(compute_capability),
        verify=verify,
        bench=bench,
        bench_batches=parse_batches(bench_batch, "--bench-batch"),
        threads=threads,
        seed=seed,
        bundle=bundle,
        command=command_line(),
    )
    if dry_run:
        _show(job)
    else:
        _run(job, as_json=as_json, quiet=quiet)


def _run(job: Job, *, as_json: bool, quiet: bool) -> None:
    from rich.console import Console

    from tofu_export.cli.console import listening
    from tofu_export.cli.summary import summary
    from tofu_export.job.vit import run_job

    console = Console(stderr=True)
    with listening(console, quiet=quiet) as listener:
        report = run_job(job, listener)
    if not quiet:
        console.print(summary(report, job.output))
    if as_json:
        click.echo(report.to_json(), nl=False)


def _show(job: Job) -> None:
    """Dry run: the plan, and what would be written where."""
    from tofu_export.job.dry_run import preview
    from tofu_export.report.document import plan_table

    found = preview(job)
    engines = ", ".join(found.engines) or f"none ({found.no_engine})"
    click.echo(plan_table(found.spec, found.plan))
    click.echo(f"output {', '.join(found.output.names_with(job.token_map))}")
    click.echo(f"weights: {found.loaded}\nverified on: {found.images}\nengines: {engines}")
    click.echo(f"\nwould write to {job.output}: {', '.join(job.file_names())}, report.json, report.md, report.html")
