"""Measure what reductions cost a real classifier on labelled photographs, from exported files in onnxruntime.

    python benchmarks/real.py --model deit_tiny_patch16_224 --weights pretrained --images imagenet/val --write real.md

Top-1 of every pattern of the paper with token sizes and without, at several r; paired differences to the full model and
to ToMe; FP16 and INT8 of the default; linearity of each layer and the length of its tokens. The folder holds one
folder per ImageNet synset (`n01440764/...`). Finished cells and the decoded photos are kept in `--output`: the same
command goes on where it was stopped. Each file is verified against the eager model before it counts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from real_tables import page
from rich.console import Console

from tofu_export.analyze.figure import draw
from tofu_export.analyze.request import AnalyzeRequest
from tofu_export.analyze.run import analyze
from tofu_export.artifact.preprocessing import Preprocessing
from tofu_export.cli.sweep_text import SweepListener
from tofu_export.errors import OptionError, TofuError
from tofu_export.evaluate.images import folder_source
from tofu_export.options import DEFAULT_R, Mode, Precision, Reduction, Schedule
from tofu_export.planning.plan import ModelSpec, make_plan
from tofu_export.report.linearity import AnalysisDocument
from tofu_export.report.sweep import SweepFailure
from tofu_export.sweep.grid import Cell, Grid, expand
from tofu_export.sweep.records import Evaluation, Record
from tofu_export.sweep.run import run_sweep
from tofu_export.sweep.settings import Settings
from tofu_export.sweep.store import Key, Store
from tofu_export.sweep.workers import Pool, in_process, in_processes
from tofu_export.system.files import write_text
from tofu_export.system.typed_json import to_object
from tofu_export.zoo.specs import spec_of
from tofu_export.zoo.weights import WeightsSource

__all__ = ["FIGURE", "Real", "main", "measure", "patterns_of"]

FIGURE = "linearity.svg"
STEPS = 16
"""K of equation 8."""


@dataclass(frozen=True)
class Real:
    """What was measured of one model.

    Attributes:
        labels: int64 [n], the class of each photo.
        methods: cells of the patterns, with sizes and without.
        defaults: cells of the default, of `--mode mlerp` and of `--mode tome` without other options.
        falling: cells of the default and of `--mode tome` with `--schedule linear`, at no more GMACs than those of a
            constant r, which `falling_r` gives.
        falling_r: the r of the linear schedule, by constant r.
        precisions: the full model and the default at one r, in each precision.
        found: what each cell's file gave, by cell; those that failed are missing.
        failures: what could not be measured.
        analysis: as `tofu-export analyze --json` prints it.
        weights: where they come from.
    """

    labels: NDArray[np.int64]
    methods: tuple[Cell, ...]
    defaults: tuple[Cell, ...]
    falling: tuple[Cell, ...]
    falling_r: Mapping[int, int]
    precisions: tuple[Cell, ...]
    found: Mapping[Cell, Record[Evaluation]]
    failures: tuple[SweepFailure, ...]
    analysis: Mapping[str, Any]
    weights: str

    @property
    def full(self) -> Cell:
        """The full model in FP32."""
        return self.methods[0]


def patterns_of(depth: int) -> tuple[str, ...]:
    """The patterns to compare: for 12 layers P6M6, P6A6, A6P6, M12, A12, P12, T12, W12, P3M9, P3T9 and P3W9."""
    half, quarter = depth // 2, depth // 4
    mixed = tuple(f"{first}{half}{second}{depth - half}" for first, second in ("PM", "PA", "AP"))
    early = tuple(f"P{quarter}{letter}{depth - quarter}" for letter in "MTW")
    return (*mixed, *(f"{letter}{depth}" for letter in "MAPTW"), *early)


def measure(
    model: str,
    settings: Settings,
    amounts: Sequence[int],
    patterns: Sequence[str] | None,
    folder: Path,
    *,
    pool: Pool = in_process,
    console: Console | None = None,
    analyzed: int = 64,
) -> Real:
    """Measure what is not in `folder` yet.

    Args:
        model: timm name.
        settings: weights, photos and how many of them.
        amounts: each r.
        patterns: as `Grid.patterns`; None for all of `patterns_of`.
        folder: where finished cells are kept.
        pool: runs the evaluations.
        console: for those who wait.
        analyzed: photos on which linearity and lengths are measured.

    Raises:
        TofuError: the photos have no classes, or something in common to all cells is not there.
    """
    spec = spec_of(model)
    assert settings.images is not None  # the parser asks for them
    prepared = Preprocessing.uniform((spec.in_chans, *spec.image_size))  # only the labels are of interest
    labels = folder_source(settings.images, prepared, num_classes=spec.num_classes).limited(settings.limit).labels
    if labels is None:
        raise OptionError(f"images {settings.images}: no class folders, expected one per synset as in ImageNet")
    falling_r = {r: _falling_r(spec, r) for r in amounts}
    nearest = min(amounts, key=lambda r: abs(r - DEFAULT_R))
    grids = (
        Grid((model,), r=tuple(amounts), modes=(), patterns=tuple(patterns or patterns_of(spec.depth)),
             prop_attn=(True, False)),
        Grid((model,), r=tuple(amounts), modes=(Mode.WEIGHTED_MLERP, Mode.MLERP, Mode.TOME)),
        Grid((model,), r=tuple(dict.fromkeys(falling_r.values())), modes=(Mode.WEIGHTED_MLERP, Mode.TOME),
             schedule=Schedule.LINEAR),
        Grid((model,), r=(0, nearest), precisions=(Precision.FP32, Precision.FP16, Precision.INT8)),
    )  # fmt: skip
    store, conditions = Store(folder), settings.evaluation()
    listener = SweepListener(console or Console(stderr=True), quiet=console is None)
    failures: list[SweepFailure] = []
    found: dict[Cell, Record[Evaluation]] = {}
    for grid in grids:
        try:
            failures += run_sweep(grid, settings, folder, pool, listener).failures
        finally:
            listener.close()
        for cell in expand(grid)[0]:
            record = store.get(Key("evaluation", cell, None, conditions), Evaluation)
            if record is not None:
                found[cell] = record
    methods, defaults, falling, precisions = (expand(grid)[0] for grid in grids)
    key = Key("analysis", methods[0], None, {**conditions, "limit": analyzed, "r": nearest, "steps": STEPS})
    analysis = _analysis(store, key, folder, settings, listener)
    if methods[0] not in found:
        raise TofuError("the full model could not be measured, and all is compared with it: see the failures above")
    return Real(
        labels, methods, defaults, falling, falling_r, precisions, found, tuple(dict.fromkeys(failures)), analysis,
        str(conditions["weights"]),
    )  # fmt: skip


def _falling_r(spec: ModelSpec, r: int) -> int:
    """The smallest r of a linear schedule that needs no more GMACs than a constant `r`."""
    most = make_plan(spec, Reduction(r=r)).macs_reduced
    return next(
        amount
        for amount in range(spec.tokens)
        if make_plan(spec, Reduction(r=amount, schedule=Schedule.LINEAR)).macs_reduced <= most
    )


def _analysis(store: Store, key: Key, folder: Path, settings: Settings, listener: SweepListener) -> Mapping[str, Any]:
    """Linearity and lengths, and their figure in `folder`; measured where the store has none."""
    record = store.get(key, AnalysisDocument)
    if record is None:
        request = AnalyzeRequest(
            key.cell.model,
            settings.images,
            settings.weights,
            limit=key.settings["limit"],
            r=key.settings["r"],
            steps=key.settings["steps"],
        )
        listener.note("linearity of each layer, length of tokens")
        record = Record(analyze(request))
        store.put(key, record)
    draw(record.result, folder / FIGURE)
    return to_object(record.result)


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}, expected whole numbers with commas between: 8,16") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the tables; the exit code is 1 if a cell failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="timm name of a classifier")
    parser.add_argument("--weights", default="pretrained", help="pretrained, or a file with weights")
    parser.add_argument("--images", type=Path, required=True, help="folder with one folder of photos per synset")
    parser.add_argument("--r", type=_numbers, default="8,13,16,20", help="comma list of tokens to remove per layer")
    parser.add_argument("--patterns", help="comma list such as P6M6,M12; all of the paper's kinds if left out")
    parser.add_argument("--limit", type=int, help="photos to judge on, spread over the classes; all if left out")
    parser.add_argument("--analyzed", type=int, default=64, help="photos for linearity and lengths")
    parser.add_argument("--jobs", type=int, default=1, help="processes that evaluate beside each other")
    parser.add_argument("--output", type=Path, default=Path("real_out"), help="folder for finished cells and figures")
    parser.add_argument("--write", type=Path, help="file for the tables; real.md in the output folder if left out")
    options = parser.parse_args(arguments)
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 200)
    try:
        settings = Settings(
            WeightsSource.parse(options.weights), images=options.images, limit=options.limit,
            image_cache=options.output, bench=False,
        )  # fmt: skip
        real = measure(
            options.model,
            settings,
            options.r,
            options.patterns.split(",") if options.patterns else None,
            options.output,
            pool=in_process if options.jobs == 1 else in_processes(options.jobs),
            console=console,
            analyzed=options.analyzed,
        )
        path = options.write or options.output / "real.md"
        write_text(path, page(real, FIGURE))
    except TofuError as error:
        console.print(f"error: {error}", markup=False, soft_wrap=True)
        return int(error.exit_code)
    console.print(f"written to {path}", markup=False, soft_wrap=True)
    return int(bool(real.failures))


if __name__ == "__main__":
    sys.exit(main())
