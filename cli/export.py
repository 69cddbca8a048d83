"""`tofu-export MODEL`: the main job."""

from __future__ import annotations

import logging
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tofu_export.cli.parameters import make_reduction, parse_batches, read_labels, reduction_options
from tofu_export.options import PATCH_GROUPS, BatchRange, IoType, OutputKind, Target, parse_precisions

if TYPE_CHECKING:
    from tofu_export.job import Job

__all__ = ["export_command"]


@click.command("export", short_help="Export a model: ONNX, verification, benchmark, engines, report.")
@click.argument("model")
@reduction_options
@click.option(
    "--weights",
    default="pretrained",
    show_default=True,
    metavar="pretrained|random|PATH",
    help="Where the weights come from.",
)
@click.option("--batch", default="1:8:64", show_default=True, metavar="MIN:OPT:MAX", help="Batch sizes to serve.")
@click.option(
    "--precision", default="fp32,fp16", show_default=True, metavar="LIST", help="Some of fp32, fp16, bf16, int8."
)
@click.option(
    "--target",
    type=click.Choice([target.value for target in Target]),
    default=Target.PORTABLE.value,
    show_default=True,
    help="Runtime that the ONNX files are written for.",
)
@click.option("--opset", type=click.IntRange(min=18), default=18, show_default=True, help="ONNX opset.")
@click.option(
    "--io-dtype",
    type=click.Choice([kind.value for kind in IoType]),
    default=IoType.FP32.value,
    show_default=True,
    help="Type of input and output: fp32, or that of the model.",
)
@click.option(
    "--output-kind",
    type=click.Choice([kind.value for kind in OutputKind]),
    default=None,
    help="What the files give: logits, pooled features, the reduced tokens and where each original one went, or the "
    "restored grid.  [default: logits, or features without a classifier]",
)
@click.option(
    "--token-map",
    is_flag=True,
    help=f"One more output, {PATCH_GROUPS}: the token that each input patch ended in, -1 if it was pruned.",
)
@click.option(
    "--images", type=click.Path(path_type=Path), default=None, metavar="DIR", help="Real images to verify with."
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FILE",
    help="Class names to store in the files, one per line.",
)
@click.option(
    "--engine/--no-engine",
    "engine",
    default=None,
    help="Build TensorRT engines.  [default: if a TensorRT is installed]",
)
@click.option(
    "--compute-capability",
    default="",
    metavar="LIST",
    help="GPUs that TensorRT-RTX engines run on, such as SM89.  [default: SM80 and newer]",
)
@click.option("--verify/--no-verify", default=True, show_default=True, help="Compare every file with eager PyTorch.")
@click.option("--bench/--no-bench", default=True, show_default=True, help="Time reduced against full in onnxruntime.")
@click.option("--bench-batch", default="", metavar="LIST", help="Batch sizes to time.  [default: OPT]")
@click.option(
    "--autotune", is_flag=True, help="Time the ways to write the FP32 file on this machine, and keep the fastest."
)
@click.option(
    "--threads", type=click.IntRange(min=1), default=None, metavar="N", help="Threads of onnxruntime when timing."
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of random weights and generated images."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=None,
    metavar="DIR",
    help="Folder for the files.  [default: MODEL-tofu]",
)
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    default=None,
    metavar="DIR",
    help="If a file is wrong or an engine fails to build, write all that is needed to look closer to this new folder.",
)
@click.option("--json", "as_json", is_flag=True, help="Print report.json on stdout, and nothing else there.")
@click.option("--dry-run", is_flag=True, help="Show the plan and the files, write nothing.")
@click.option("-q", "--quiet", is_flag=True, help="Only errors.")
@click.option("-v", "--verbose", is_flag=True, help="Also operator counts and library messages.")
def export_command(
    model: str,
    weights: str,
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
    autotune: bool,
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
    **reduction: Any,
) -> None:
    """Reduce MODEL (a timm name, vit_tiny|small|base|large, or demo_vit) and export it.

    Writes ONNX files, TensorRT engines where a TensorRT is installed, report.json, report.md and report.html.
    """  # fmt: skip
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(name)s: %(message)s")
    chosen = make_reduction(**reduction)
    batches, precisions = BatchRange.parse(batch), parse_precisions(precision)
    from tofu_export.job import Job  # imports torch: only after the cheap checks
    from tofu_export.zoo.weights import WeightsSource

    job = Job(
        model=model,
        output=output if output is not None else Path(f"{Path(model).name.replace(':', '-')}-tofu"),
        reduction=chosen,
        output_kind=None if output_kind is None else OutputKind(output_kind),
        token_map=token_map,
        weights=WeightsSource.parse(weights),
        image_size=image_size,
        num_classes=num_classes,
        batch=batches,
        precisions=precisions,
        target=Target(target),
        opset=opset,
        io_type=IoType(io_dtype),
        images=images,
        labels=read_labels(labels),
        engine=engine,
        compute_capabilities=tuple(name.strip() for name in compute_capability.split(",") if name.strip()),
        verify=verify,
        bench=bench,
        bench_batches=parse_batches(bench_batch, "--bench-batch"),
        autotune=autotune,
        threads=threads,
        seed=seed,
        bundle=bundle,
        command=shlex.join(["tofu-export", *sys.argv[1:]]),
    )
    if dry_run:
        _show(job)
    else:
        _run(job, as_json=as_json, quiet=quiet)


def _run(job: Job, *, as_json: bool, quiet: bool) -> None:
    from rich.console import Console

    from tofu_export.cli.console import ConsoleListener
    from tofu_export.cli.summary import summary
    from tofu_export.run import run_job

    console = Console(stderr=True)
    listener = ConsoleListener(console, quiet=quiet)
    try:
        report = run_job(job, listener)
    finally:
        listener.close()
    if not quiet:
        console.print(summary(report, job.output))
    if as_json:
        click.echo(report.to_json(), nl=False)


def _show(job: Job) -> None:
    """Dry run: the plan, and what would be written where."""
    from tofu_export.report import plan_table
    from tofu_export.specs import plan_model

    spec, plan = plan_model(job.model, job.reduction, job.image_size, job.num_classes)
    output = OutputKind.choose(job.output_kind, spec.num_classes, spec.name)
    click.echo(plan_table(spec, plan))
    click.echo(f"output {', '.join(output.names_with(job.token_map))}")
    click.echo(f"\nwould write to {job.output}: {', '.join(job.file_names())}, report.json, report.md, report.html")
