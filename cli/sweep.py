"""`tofu-export sweep`: costs and gains of each reduction of a grid, on this machine and these images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tofu_export.cli.command import Run, command
from tofu_export.cli.stopping import if_stopped
from tofu_export.errors import OptionError
from tofu_export.options import shared
from tofu_export.options.declaration import Section, opt
from tofu_export.report.sweep import SweepFailure
from tofu_export.sweep.grid import Grid
from tofu_export.sweep.settings import Settings
from tofu_export.system.typed_json import to_object

if TYPE_CHECKING:
    from tofu_export.sweep.workers import Pool

__all__ = ["sweep_command"]


@dataclass(frozen=True)
class SweepWork:
    """Options for where a sweep runs, and what happens to its results."""

    jobs: int = opt(
        1, "Processes that evaluate cells. Timings are never made beside anything else.", Section.TIMING, metavar="N",
        minimum=1,
    )  # fmt: skip
    ray_address: str | None = opt(
        None, "Evaluate on a Ray cluster instead; timings are made here.", Section.TIMING, flags=("--ray",),
        metavar="ADDRESS|local",
    )  # fmt: skip
    output: Path = shared.output("Folder for the results, and for finished cells.", "DIR", default=Path("sweep_out"))
    axis: str | None = opt(
        None, "What the chart shows quality against.", Section.OUTPUT, choices=("images/s", "gmacs"),
        unless="images/s, or gmacs with --no-bench",
    )  # fmt: skip
    parquet: bool = opt(False, "Also write sweep.parquet (needs pyarrow).", Section.OUTPUT)
    fresh: bool = opt(False, "Measure finished cells again.", Section.OUTPUT, everyday=True)

    def __post_init__(self) -> None:
        if self.ray_address is not None and self.jobs > 1 and self.ray_address != "local":
            raise OptionError("--jobs is for this machine: leave it out with --ray, whose cluster has its own cores")


@command(
    "sweep", short_help="Measure a grid of reductions: work, speed, accuracy; tables and a Pareto chart.",
    dry_run=True, quiet="Only errors.", verbose="messages of libraries",
)  # fmt: skip
def sweep_command(settings: Settings, grid: Grid, work: SweepWork, run: Run) -> int | None:
    """Export each MODEL in every way of a grid, see what each file still decides rightly, and time it.

    Writes sweep.json, sweep.csv, sweep.md and a Pareto chart. The full model in FP32 is always measured as well: all
    others are compared with it. Finished cells are kept in the output folder, so that the same command goes on where
    it was stopped; a cell that was made with other versions, weights or images is measured again.

    \b
    tofu-export sweep demo_vit --r 16,32,48 --mode mlerp,average,prune
    tofu-export sweep demo_vit --r 48 --split PA,AP --no-bench --jobs 2
    tofu-export sweep vit_small vit_base --r 8,12,16 --images imagenet/val --weights pretrained

    A cell that fails is reported, does not stop the others, and sets the exit code.
    """  # fmt: skip
    settings = replace(settings, image_size=grid.image_size)
    if run.dry_run:
        failures = _show(grid, settings, run)
    else:
        if work.parquet:
            from tofu_export.sweep.parquet import load

            load()  # report missing packages before the work
        failures = _sweep(grid, settings, work, run)
    return failures[0].exit_code if failures else None


def _sweep(grid: Grid, settings: Settings, work: SweepWork, run: Run) -> tuple[SweepFailure, ...]:
    from tofu_export.cli.sweep_text import SweepListener, summary
    from tofu_export.sweep.publish import publish
    from tofu_export.sweep.run import run_sweep

    console = run.console()
    listener = SweepListener(console, quiet=run.quiet)
    pool = _pool(work)
    with if_stopped(lambda: f"the same command goes on with what is in {work.output}"):
        try:
            result = run_sweep(grid, settings, work.output, pool, listener, fresh=work.fresh, command=run.command)
        finally:
            listener.close()
    files = publish(result, work.output, parquet=work.parquet, axis=work.axis)
    if not run.quiet:
        console.print(summary(result, work.output, files))
    run.document(lambda: to_object(result))
    return result.failures


def _pool(work: SweepWork) -> Pool:
    from tofu_export.sweep.workers import in_process, in_processes

    if work.ray_address is not None:
        from tofu_export.sweep.on_ray import on_ray

        return on_ray(work.ray_address, work.jobs if work.jobs > 1 else None)
    return in_process if work.jobs == 1 else in_processes(work.jobs)


def _show(grid: Grid, settings: Settings, run: Run) -> tuple[SweepFailure, ...]:
    """Show for a dry run what would be measured."""
    from tofu_export.report.sweep import label_of
    from tofu_export.sweep.grid import expand
    from tofu_export.sweep.run import check
    from tofu_export.sweep.tables import gmacs_text

    check(grid, settings)
    cells, failures = expand(grid)
    batches = grid.batches if settings.bench else ()
    if run.as_json:
        rows = [
            {
                "model": cell.model, "r": cell.r, "mode": cell.mode, "pattern": cell.pattern,
                "select": cell.select.value, "precision": cell.precision.value,
                "gmacs": cell.gmacs, "gmacs_full": cell.gmacs_full,
                "batches": [batch for batch in batches if cell.precision.runs_on_cpus],
            }
            for cell in cells
        ]  # fmt: skip
        run.document({"kind": "sweep-plan", "schema_version": 1, "cells": rows, "failures": list(map(vars, failures))})
    else:
        names = ["" if cell.full else label_of(cell.pattern, cell.prop_attn, cell.select) for cell in cells]
        model = max([5, *(len(cell.model) for cell in cells)])
        mode = max([4, *(len(cell.mode) for cell in cells)])
        name = max(9, *map(len, names))
        click.echo(f"{'model':<{model}}  {'r':>3}  {'mode':<{mode}}  {'reduction':<{name}}  type       GMACs  less")
        for cell, own in zip(cells, names, strict=True):
            click.echo(
                f"{cell.model:<{model}}  {cell.r:>3}  {cell.mode:<{mode}}  {own:<{name}}  {cell.precision.value:<9}  "
                f"{gmacs_text(cell.gmacs)}  {cell.gmacs_full / cell.gmacs:.2f}x"
            )
        timings = sum(cell.precision.runs_on_cpus for cell in cells) * len(batches)
        click.echo(f"\n{len(cells)} files to make and evaluate, {timings} timings")
        for failure in failures:
            click.echo(f"cannot be measured: {failure.model} {failure.what}: {failure.reason}", err=True)
    return failures
