"""`tofu-export unet`: Stable Diffusion's UNet."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tofu_export.cli.parameters import command_line, parse_batches, parse_names
from tofu_export.cli.sections import Section, command, option
from tofu_export.cli.shared_options import (
    bench_options,
    capability_option,
    dry_run_option,
    json_option,
    onnx_options,
    output_option,
    quiet_option,
    seed_option,
    served_batch_option,
    verbose_option,
    verify_option,
)
from tofu_export.options import BatchRange, IoType, Target, parse_precisions

if TYPE_CHECKING:
    from tofu_export.diffusion.job import UnetJob
    from tofu_export.report.document import Report

__all__ = ["unet_command"]

_MODES = ("hybrid", "mlerp", "average", "prune", "tome")


@command("unet", short_help="Export Stable Diffusion's UNet with Token Fusion in its self-attention.")
@click.argument("model")
@option(Section.MODEL, "--weights", default=None, metavar="random|PATH",
        help="Where the weights come from.  [default: beside the config]")  # fmt: skip
@option(Section.MODEL, "--latent-size", default=None, metavar="H[xW]",
        help="An eighth of the image's pixels; fixed in the files.  [default: the UNet's own]")  # fmt: skip
@option(Section.MODEL, "--text-tokens", type=click.IntRange(min=1), default=77, show_default=True, metavar="N",
        help="Length of the text.")  # fmt: skip
@seed_option("random weights and the inputs that files are verified on")
@option(Section.REDUCTION, "--ratio", type=float, default=0.5, show_default=True, metavar="SHARE",
        help="Share of its tokens that a reduced block does without; 0 exports the full UNet.")  # fmt: skip
@option(Section.REDUCTION, "--mode", type=click.Choice(_MODES), default="hybrid", show_default=True,
        help="hybrid: down blocks prune, later ones merge by mlerp. tome: tomesd's mean.")  # fmt: skip
@option(Section.REDUCTION, "--boundary", type=click.IntRange(min=0), default=None, metavar="D",
        help="The first D transformer blocks, in the order in which they run, prune; the others merge.  "
        "[default: for hybrid the down blocks, else 0]")  # fmt: skip
@option(Section.REDUCTION, "--sx", type=click.IntRange(min=1), default=2, show_default=True, metavar="N",
        help="Width of a cell in tokens.")  # fmt: skip
@option(Section.REDUCTION, "--sy", type=click.IntRange(min=1), default=2, show_default=True, metavar="N",
        help="Height of a cell: each whole cell has one destination.")  # fmt: skip
@option(Section.REDUCTION, "--cell-seed", type=click.IntRange(min=0), default=None, metavar="N",
        help="Draw each cell's destination with this seed.  [default: its first token]")  # fmt: skip
@option(Section.REDUCTION, "--max-downsample", type=click.Choice(["1", "2", "4", "8"]), default="1", show_default=True,
        help="Reduce blocks at most this much smaller than the latent.")  # fmt: skip
@option(Section.REDUCTION, "--merge-crossattn", is_flag=True, help="Reduce the tokens that query the text as well.")
@option(Section.REDUCTION, "--merge-mlp", is_flag=True, help="Reduce the tokens that the MLP sees as well.")
@served_batch_option("1:2:8", note="; guidance takes two for each image")
@option(Section.FILES, "--precision", default="fp32,fp16", show_default=True, metavar="LIST",
        help="Some of fp32, fp16, bf16: one file each.")  # fmt: skip
@onnx_options()
@verify_option()
@option(Section.ENGINE, "--engine/--no-engine", "engine", default=False, show_default=True,
        help="Build TensorRT engines; takes minutes, and 11 GB of memory for sd15 in fp32.")  # fmt: skip
@capability_option()
@bench_options(default=False)
@output_option("Folder for the files.  [default: MODEL-tofu]", "DIR", default=None)
@json_option()
@dry_run_option()
@quiet_option()
@verbose_option("operator counts and messages of libraries")
def unet_command(
    model: str,
    mode: str,
    max_downsample: str,
    latent_size: str | None,
    text_tokens: int,
    weights: str | None,
    batch: str,
    precision: str,
    target: str,
    opset: int,
    io_dtype: str,
    engine: bool,
    compute_capability: str,
    verify: bool,
    bench: bool,
    bench_batch: str,
    threads: int | None,
    seed: int,
    output: Path | None,
    as_json: bool,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
    **reduction: Any,
) -> None:
    """Reduce MODEL, a diffusers folder of a UNet or a pipeline, before its self-attention, and export it.

    The shapes sd15, sd21, sdxl and tiny are known: with --weights random they need no download. Inputs and output are
    named as diffusers' ONNX pipelines expect them.

    \b
    tofu-export unet sd15 --weights random --dry-run
    tofu-export unet stable-diffusion-v1-5 --ratio 0.5 --mode hybrid -o sd15-tofu
    tofu-export unet tiny --weights random --bench
    """  # fmt: skip
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(name)s: %(message)s")
    from tofu_export.diffusion.job import UnetJob
    from tofu_export.diffusion.options import LatentSize, UnetMode, UnetReduction

    job = UnetJob(
        model=model,
        output=output if output is not None else Path(f"{Path(model).resolve().name}-tofu"),
        weights=weights,
        reduction=UnetReduction(mode=UnetMode(mode), max_downsample=int(max_downsample), **reduction),
        latent=None if latent_size is None else LatentSize.parse(latent_size),
        text_tokens=text_tokens,
        batch=BatchRange.parse(batch),
        precisions=parse_precisions(precision),
        target=Target(target),
        opset=opset,
        io_type=IoType(io_dtype),
        engine=engine,
        compute_capabilities=parse_names(compute_capability),
        verify=verify,
        bench=bench,
        bench_batches=parse_batches(bench_batch, "--bench-batch"),
        threads=threads,
        seed=seed,
        command=command_line(),
    )
    if dry_run:
        _show(job, as_json=as_json)
    else:
        report = _run(job, quiet=quiet)
        if as_json:
            click.echo(report.to_json(), nl=False)


def _run(job: UnetJob, *, quiet: bool) -> Report:
    from tofu_export.cli.console import listening
    from tofu_export.diffusion.adapter import run_unet_job

    with listening(quiet=quiet) as listener:
        report = run_unet_job(job, listener)
    if not quiet:
        files = [f"  {entry['path']}  {entry['bytes'] / 1e6:.1f} MB" for entry in report.artifacts]
        left = [f"left out: {row['step']}: {row['reason']}" for row in report.skipped]
        click.echo(
            "\n".join([f"written to {job.output}:", *files, "  report.html, report.md, report.json", *left]), err=True
        )
    return report


def _show(job: UnetJob, *, as_json: bool) -> None:
    """Dry run: the plan, and what would be written where."""
    import json

    from tofu_export.diffusion.adapter import plan_unet
    from tofu_export.diffusion.plan import unet_plan_table

    _, inputs, spec, plan = plan_unet(job)
    if as_json:
        shapes = {name: ["batch" if size is None else size for size in shape] for name, shape in inputs.shapes.items()}
        click.echo(json.dumps({"model": spec.name, "inputs": shapes, "plan": plan.to_dict()}, indent=2))
        return
    click.echo(unet_plan_table(spec, plan))
    click.echo(f"\nwould write to {job.output}: {', '.join(job.file_names())}, report.json, report.md, report.html")
