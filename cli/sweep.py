"""`tofu-export sweep`: what each reduction of a grid costs and gains, on this machine, on these images."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from tofu_export.cli.parameters import command_line, parse_batches
from tofu_export.cli.sections import Section, command, option
from tofu_export.cli.shared_options import (
    PROP_ATTN,
    class_options,
    dry_run_option,
    image_size_option,
    images_option,
    json_option,
    limit_option,
    listed_batch_option,
    output_option,
    quiet_option,
    schedule_option,
    seconds_option,
    seed_option,
    target_option,
    threads_option,
    verbose_option,
    verify_option,
    weights_option,
)
from tofu_export.cli.stopping import if_stopped
from tofu_export.errors import OptionError
from tofu_export.options import Mode, Schedule, Target, parse_precisions

if TYPE_CHECKING:
    from tofu_export.sweep.grid import Failure, Grid
    from tofu_export.sweep.settings import Settings
    from tofu_export.sweep.workers import Pool
    from tofu_export.zoo.weights import WeightsSource

__all__ = ["sweep_command"]

_WIDTH = 200
Value = TypeVar("Value")


@command("sweep", short_help="Measure a grid of reductions: work, speed, accuracy; tables and a Pareto chart.")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@weights_option()
@image_size_option()
@seed_option("random weights and generated images")
@option(
    Section.REDUCTION, "--r", "r", default="8,16", show_default=True, metavar="LIST", help="Tokens to remove per layer."
)
@option(Section.REDUCTION, "--mode", "modes", default="", metavar="LIST",
        help="What merging layers do: some of weighted-mlerp, mlerp, average, prune, tome.  "
        "[default: weighted-mlerp, or none of them if patterns or splits are given]")  # fmt: skip
@option(Section.REDUCTION, "--prune-layers", default="", metavar="LIST",
        help="How many layers prune before them, such as 0,6.  [default: that of each mode]")  # fmt: skip
@option(Section.REDUCTION, "--pattern", "patterns", default="", metavar="LIST",
        help="One method per layer: P6M6, or PPPPPPMMMMMM.")  # fmt: skip
@option(Section.REDUCTION, "--split", "splits", default="", metavar="LIST",
        help="PA: all patterns that prune first and average later; AP: the reverse.")  # fmt: skip
@schedule_option()
@option(Section.REDUCTION, "--prop-attn", default="auto", show_default=True, metavar="LIST",
        help="Add the log of token sizes to the attention: some of auto, on, off.")  # fmt: skip
@option(Section.FILES, "--precision", default="fp32", show_default=True, metavar="LIST",
        help="Some of fp32, fp16, int8, int8-fp16, fp8.")  # fmt: skip
@target_option()
@images_option(": one folder per class, as in ImageNet, or images alone",
        unless="demo_vit's own; for others generated ones")  # fmt: skip
@limit_option()
@class_options()
@verify_option("; one that computes something else gets no row")
@option(Section.TIMING, "--bench/--no-bench", default=True, show_default=True, help="Time the files in onnxruntime.")
@listed_batch_option(default="8")
@seconds_option()
@threads_option()
@option(Section.TIMING, "--jobs", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
        help="Processes that evaluate cells. Timings are never made beside anything else.")  # fmt: skip
@option(Section.TIMING, "--ray", "ray_address", default=None, metavar="ADDRESS|local",
        help="Evaluate on a Ray cluster instead; timings are made here.")  # fmt: skip
@output_option("Folder for the results, and for finished cells.", "DIR", default=Path("sweep_out"), show_default=True)
@option(Section.OUTPUT, "--axis", type=click.Choice(["images/s", "gmacs"]), default=None,
        help="What the chart shows quality against.  [default: images/s, or gmacs with --no-bench]")  # fmt: skip
@option(Section.OUTPUT, "--parquet", is_flag=True, help="Also write sweep.parquet (needs pyarrow).")
@option(Section.OUTPUT, "--fresh", is_flag=True, help="Measure finished cells again.")
@json_option()
@dry_run_option()
@quiet_option()
@verbose_option("messages of libraries")
def sweep_command(
    models: tuple[str, ...],
    r: str,
    modes: str,
    prune_layers: str,
    patterns: str,
    splits: str,
    schedule: str,
    prop_attn: str,
    precision: str,
    batch: str,
    image_size: tuple[int, int] | None,
    weights: WeightsSource,
    target: str,
    images: Path | None,
    labelled: bool,
    class_map: Path | None,
    class_order: str | None,
    limit: int | None,
    seed: int,
    verify: bool,
    bench: bool,
    seconds: float,
    threads: int | None,
    jobs: int,
    ray_address: str | None,
    axis: str | None,
    parquet: bool,
    output: Path,
    fresh: bool,
    as_json: bool,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
) -> None:
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
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(name)s: %(message)s")
    if ray_address is not None and jobs > 1 and ray_address != "local":
        raise OptionError("--jobs is for this machine: leave it out with --ray, whose cluster has its own cores")
    from tofu_export.evaluate.classes import ClassOrder
    from tofu_export.sweep.grid import Grid
    from tofu_export.sweep.settings import Settings

    chosen = _list(modes, Mode, "--mode", "some of weighted-mlerp, mlerp, average, prune, tome")
    grid = Grid(
        models=models,
        r=_list(r, _whole, "--r", "whole numbers with commas between, for example 8,16"),
        modes=chosen or (() if patterns or splits else (Mode.WEIGHTED_MLERP,)),
        prune_layers=_list(prune_layers, _whole, "--prune-layers", "whole numbers with commas between") or (None,),
        patterns=_list(patterns, str, "--pattern", "patterns with commas between"),
        splits=_list(splits, str, "--split", "two letters such as PA, with commas between"),
        schedule=Schedule(schedule),
        prop_attn=_list(prop_attn, PROP_ATTN.__getitem__, "--prop-attn", "some of auto, on, off"),
        precisions=parse_precisions(precision),
        batches=parse_batches(batch, "--batch"),
        image_size=image_size,
    )
    settings = Settings(
        weights=weights,
        image_size=image_size,
        target=Target(target),
        images=images,
        labelled=labelled,
        class_map=class_map,
        class_order=None if class_order is None else ClassOrder(class_order),
        limit=limit,
        seed=seed,
        verify=verify,
        bench=bench,
        seconds=seconds,
        threads=threads,
    )
    if dry_run:
        _show(grid, settings, as_json=as_json)
        return
    if parquet:
        from tofu_export.sweep.parquet import load

        load()  # what is missing is said before the work
    _run(grid, settings, _pool(ray_address, jobs), output, fresh, parquet, axis, as_json=as_json, quiet=quiet)


def _run(
    grid: Grid,
    settings: Settings,
    pool: Pool,
    output: Path,
    fresh: bool,
    parquet: bool,
    axis: str | None,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    from rich.console import Console

    from tofu_export.cli.sweep_text import SweepListener, summary
    from tofu_export.sweep.publish import publish
    from tofu_export.sweep.run import run_sweep

    # Off a terminal rich would squeeze tables into 80 columns.
    console = Console(stderr=True, width=None if sys.stderr.isatty() else _WIDTH)
    listener = SweepListener(console, quiet=quiet)
    command = command_line()
    with if_stopped(lambda: f"the same command goes on with what is in {output}"):
        try:
            result = run_sweep(grid, settings, output, pool, listener, fresh=fresh, command=command)
        finally:
            listener.close()
    files = publish(result, output, parquet=parquet, axis=axis)
    if not quiet:
        console.print(summary(result, output, files))
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2, allow_nan=False))
    _leave(result.failures)


def _pool(ray_address: str | None, jobs: int) -> Pool:
    from tofu_export.sweep.workers import in_process, in_processes

    if ray_address is not None:
        from tofu_export.sweep.on_ray import on_ray

        return on_ray(ray_address, jobs if jobs > 1 else None)
    return in_process if jobs == 1 else in_processes(jobs)


def _show(grid: Grid, settings: Settings, *, as_json: bool) -> None:
    """Dry run: what would be measured."""
    from tofu_export.sweep.grid import compact, expand
    from tofu_export.sweep.run import check
    from tofu_export.sweep.tables import gmacs_text

    check(grid, settings)
    cells, failures = expand(grid)
    batches = grid.batches if settings.bench else ()
    if as_json:
        rows = [
            {
                "model": cell.model, "r": cell.r, "mode": cell.mode, "pattern": cell.pattern,
                "precision": cell.precision.value, "gmacs": cell.gmacs, "gmacs_full": cell.gmacs_full,
                "batches": [batch for batch in batches if cell.precision.runs_on_cpus],
            }
            for cell in cells
        ]  # fmt: skip
        document = {"kind": "sweep-plan", "schema_version": 1, "cells": rows, "failures": list(map(vars, failures))}
        click.echo(json.dumps(document, indent=2))
    else:
        width = max([5, *(len(cell.model) for cell in cells)])
        click.echo(f"{'model':<{width}}  {'r':>3}  {'mode':<8}  {'pattern':<14}  {'type':<4}  {'GMACs':>8}  less")
        for cell in cells:
            pattern = "" if cell.full else compact(cell.pattern)
            click.echo(
                f"{cell.model:<{width}}  {cell.r:>3}  {cell.mode:<8}  {pattern:<14}  {cell.precision.value:<4}  "
                f"{gmacs_text(cell.gmacs):>8}  {cell.gmacs_full / cell.gmacs:.2f}x"
            )
        timings = sum(cell.precision.runs_on_cpus for cell in cells) * len(batches)
        click.echo(f"\n{len(cells)} files to make and evaluate, {timings} timings")
        for failure in failures:
            click.echo(f"cannot be measured: {failure.model} {failure.what}: {failure.reason}", err=True)
    _leave(failures)


def _leave(failures: tuple[Failure, ...]) -> None:
    """End with the exit code of the first failure, if there is one."""
    if failures:
        raise SystemExit(failures[0].exit_code)


def _list(text: str, convert: Callable[[str], Value], option: str, expected: str) -> tuple[Value, ...]:
    """The parts of a comma list.

    Raises:
        OptionError: a part cannot be converted.
    """
    try:
        return tuple(convert(part.strip()) for part in text.split(",") if part.strip())
    except (KeyError, ValueError) as error:
        raise OptionError(f"{option} is {text!r}, expected {expected}") from error


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(text)
    return int(text)
