"""`tofu-export MODEL`: the main job."""

from __future__ import annotations

from dataclasses import replace

import click

from tofu_export.cli.command import Run, command
from tofu_export.cli.stopping import all_or_nothing
from tofu_export.job.request import Job

__all__ = ["export_command"]


@command(
    "export", short_help="Export a model: ONNX, verification, benchmark, engines, report.", dry_run=True,
    quiet="Only errors.", verbose="operator counts and messages of libraries",
)  # fmt: skip
def export_command(job: Job, run: Run) -> None:
    """Reduce MODEL (a timm name, vit_tiny|small|base|large, or demo_vit) and export it.

    Writes ONNX files, TensorRT engines where a TensorRT is installed, report.json, report.md and report.html.

    \b
    tofu-export vit_base --r 16 --mode mlerp
    tofu-export vit_base --speedup 1.8 --weights vit_base.pth --precision fp16 -o out
    tofu-export demo_vit --plan-file tuned.json --no-engine
    """  # fmt: skip
    job = replace(job, command=run.command)
    if run.dry_run:
        _show(job, run)
    else:
        _export(job, run)


def _export(job: Job, run: Run) -> None:
    from rich.console import Console

    from tofu_export.cli.summary import summary
    from tofu_export.job.vit import run_job

    console = Console(stderr=True)
    with all_or_nothing(job.output), run.listening(console=console) as listener:
        report = run_job(job, listener)
    if not run.quiet:
        console.print(summary(report, job.output))
    if run.as_json:
        click.echo(report.to_json(), nl=False)


def _show(job: Job, run: Run) -> None:
    """Show for a dry run the plan, and the files that would be written."""
    from tofu_export.job.dry_run import preview
    from tofu_export.planning.plan_text import plan_table

    found = preview(job)
    run.document(
        {
            "model": found.spec.name, "plan": found.plan.to_dict(), "outputs": list(found.outputs),
            "weights": found.loaded, "images": found.images, "folder": str(job.output), "files": list(found.files),
        }
    )  # fmt: skip
    if run.as_json:
        return
    engines = ", ".join(found.engines) or f"none ({found.no_engine})"
    click.echo(plan_table(found.spec, found.plan))
    click.echo(f"output {', '.join(found.outputs)}")
    click.echo(f"weights: {found.loaded}\nverified on: {found.images}\nengines: {engines}")
    click.echo(f"\nwould write to {job.output}: {', '.join(found.files)}")
