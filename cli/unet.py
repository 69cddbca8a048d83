"""`tofu-export unet`: export Stable Diffusion's UNet."""

from __future__ import annotations

from dataclasses import replace

import click

from tofu_export.cli.command import Run, command
from tofu_export.cli.stopping import all_or_nothing
from tofu_export.diffusion.job import UnetJob

__all__ = ["unet_command"]


@command(
    "unet", short_help="Export Stable Diffusion's UNet with Token Fusion in its self-attention.", dry_run=True,
    quiet="Only errors.", verbose="operator counts and messages of libraries",
)  # fmt: skip
def unet_command(job: UnetJob, run: Run) -> None:
    """Reduce MODEL, a diffusers folder of a UNet or a pipeline, before its self-attention, and export it.

    The shapes sd15, sd21, sdxl and tiny are known: with --weights random they need no download. Inputs and output are
    named as diffusers' ONNX pipelines expect them.

    \b
    tofu-export unet sd15 --weights random --dry-run
    tofu-export unet stable-diffusion-v1-5 --ratio 0.5 --mode hybrid -o sd15-tofu
    tofu-export unet tiny --weights random --bench
    """  # fmt: skip
    job = replace(job, command=run.command)
    if run.dry_run:
        _show(job, run)
    else:
        _export(job, run)


def _export(job: UnetJob, run: Run) -> None:
    from tofu_export.diffusion.adapter import run_unet_job

    with all_or_nothing(job.output), run.listening() as listener:
        report = run_unet_job(job, listener)
    files = [f"  {file.path}  {file.bytes / 1e6:.1f} MB" for file in report.artifacts]
    left = [f"left out: {row.step}: {row.reason}" for row in report.skipped]
    run.say("\n".join([f"written to {job.output}:", *files, "  report.html, report.md, report.json", *left]))
    if run.as_json:
        click.echo(report.to_json(), nl=False)


def _show(job: UnetJob, run: Run) -> None:
    """Show for a dry run the plan, and the files that would be written."""
    from tofu_export.diffusion.adapter import plan_unet
    from tofu_export.diffusion.plan import unet_plan_table
    from tofu_export.job.engines import planned_engines
    from tofu_export.job.files import planned_names
    from tofu_export.system.files import check_writable

    _, inputs, spec, plan = plan_unet(job)
    check_writable(job.output)
    files = planned_names(job, spec.params, planned_engines(job), token_maps=False)
    if run.as_json:
        shapes = {name: ["batch" if size is None else size for size in shape] for name, shape in inputs.shapes.items()}
        run.document({"model": spec.name, "inputs": shapes, "plan": plan.to_dict(), "files": list(files)})
        return
    click.echo(unet_plan_table(spec, plan))
    click.echo(f"\nwould write to {job.output}: {', '.join(files)}")
