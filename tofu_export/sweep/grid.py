"""The grid of a sweep, and its cells. No weights and, for models of the catalogue, no torch."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from tofu_export.errors import OptionError, TofuError
from tofu_export.options import PROP_ATTN, Method, Mode, Precision, Reduction, Schedule, Selection, shared
from tofu_export.options.declaration import Section, opt, positional
from tofu_export.options.texts import comma_list, whole
from tofu_export.planning.plan import Plan, make_plan
from tofu_export.report.document import FULL
from tofu_export.report.sweep import PATTERN, SweepFailure, compact, label_of
from tofu_export.system.typed_json import JsonObject
from tofu_export.zoo.specs import check_structure, plan_model

__all__ = [
    "Cell",
    "Grid",
    "expand",
    "expand_pattern",
    "split_patterns",
]

_SELECTIONS = ", ".join(select.value for select in Selection if not select.is_trained)
_LETTERS = "".join(method.value for method in Method)
_MOST_DIGITS = 3
_RUN = re.compile(rf"([{re.escape(_LETTERS)}])(\d*)")


@dataclass(frozen=True)
class Grid:
    """Grid of models, reductions, precisions and batch sizes.

    Attributes:
        models: timm names, aliases or the demo model.
        r: tokens to remove per layer; 0 is the full model, in each precision.
        modes: what the merging layers do; None for weighted MLERP, unless patterns or splits are given.
        prune_layers: number of leading layers that prune; None for the default.
        patterns: besides the modes, one method per layer each: `PPPPPPMMMMMM` or shorter `P6M6`.
        splits: besides the modes, pairs of letters: `PA` stands for all patterns that prune in the first d layers and
            average in the others, d from 0 to the depth.
        schedule: how r is spread over the layers.
        prop_attn: whether token sizes enter the attention; None as in `Reduction`.
        selections: how the tokens that leave are chosen.
        precisions: types of the files.
        batches: batch sizes to time.
        image_size: height and width in pixels; None for each model's own.

    Raises:
        OptionError: a list is empty, a value repeats or cannot be used, or a precision does not run
            here.
    """

    models: tuple[str, ...] = positional(nargs=-1, metavar="MODEL...")
    r: tuple[int, ...] = opt(
        (8, 16), "Tokens to remove per layer.", Section.REDUCTION, metavar="LIST", everyday=True,
        parse=comma_list(whole, "--r", "whole numbers with commas between, for example 8,16"),
    )  # fmt: skip
    modes: tuple[Mode, ...] = opt(
        None, "What merging layers do: some of weighted-mlerp, mlerp, average, prune, tome.", Section.REDUCTION,
        flags=("--mode",), metavar="LIST", unless="weighted-mlerp, or none of them if patterns or splits are given",
        parse=comma_list(Mode, "--mode", "some of weighted-mlerp, mlerp, average, prune, tome"), everyday=True,
    )  # fmt: skip
    prune_layers: tuple[int | None, ...] = opt(
        (None,), "How many layers prune before them, such as 0,6.", Section.REDUCTION, metavar="LIST",
        unless="that of each mode", parse=comma_list(whole, "--prune-layers", "whole numbers with commas between"),
    )  # fmt: skip
    patterns: tuple[str, ...] = opt(
        (), "One method per layer: P6M6, or PPPPPPMMMMMM.", Section.REDUCTION, flags=("--pattern",), metavar="LIST",
        parse=comma_list(str, "--pattern", "patterns with commas between"),
    )  # fmt: skip
    splits: tuple[str, ...] = opt(
        (), "PA: all patterns that prune first and average later; AP: the reverse.", Section.REDUCTION,
        flags=("--split",), metavar="LIST",
        parse=comma_list(str, "--split", "two letters such as PA, with commas between"),
    )  # fmt: skip
    schedule: Schedule = shared.schedule()
    prop_attn: tuple[bool | None, ...] = opt(
        (None,), "Add the log of token sizes to the attention: some of auto, on, off.", Section.REDUCTION,
        metavar="LIST", shown="auto", parse=comma_list(PROP_ATTN.__getitem__, "--prop-attn", "some of auto, on, off"),
    )  # fmt: skip
    selections: tuple[Selection, ...] = opt(
        (Selection.BIPARTITE,), f"How the tokens that leave are chosen: some of {_SELECTIONS}.", Section.REDUCTION,
        flags=("--select",), metavar="LIST", shown=Selection.BIPARTITE.value,
        parse=comma_list(Selection, "--select", f"some of {_SELECTIONS}"),
    )  # fmt: skip
    precisions: tuple[Precision, ...] = shared.precisions(
        (Precision.FP32,), "Some of fp32, fp16, int8, int8-fp16, fp8."
    )
    batches: tuple[int, ...] = shared.listed_batches((8,))
    image_size: tuple[int, int] | None = shared.image_size()

    def __post_init__(self) -> None:
        object.__setattr__(self, "modes", _modes(self.modes, alone=not (self.patterns or self.splits)))
        for name in (
            "models",
            "r",
            "precisions",
            "batches",
            "prune_layers",
            "prop_attn",
            "selections",
            "modes",
            "patterns",
            "splits",
        ):
            values = getattr(self, name)
            if not values and name not in ("modes", "patterns", "splits"):
                raise OptionError(f"a sweep needs at least one value for {name.replace('_', ' ')}")
            if len(set(values)) < len(values):
                raise OptionError(f"{name.replace('_', ' ')} of a sweep repeat a value: give each once")
        if not (self.modes or self.patterns or self.splits):
            raise OptionError("a sweep needs a mode, a pattern or a split")
        for batch in self.batches:
            if batch < 1:
                raise OptionError(f"batch size {batch}, expected a whole number >= 1")
        if trained := [select.value for select in self.selections if select.is_trained]:
            raise OptionError(
                f"a sweep compares amounts and methods, which weights trained for {trained[0]} bring with them: leave "
                f"{trained[0]} out of --select, and give such weights to export or eval"
            )
        if Precision.BF16 in self.precisions:
            from tofu_export.system.ort import NO_BFLOAT16  # loads numpy

            raise OptionError(f"{NO_BFLOAT16}, so a sweep cannot run such files: leave bf16 out of --precision")
        for split in self.splits:
            if len(split) != 2 or not set(split) <= set(_LETTERS) or split[0] == split[1]:
                raise OptionError(f"split {split!r}, expected two different letters of {_LETTERS}, for example PA")
        for pattern in self.patterns:
            expand_pattern(pattern)

    def to_dict(self) -> JsonObject:
        """Return the grid as JSON values."""
        return {
            "models": list(self.models),
            "r": list(self.r),
            "modes": [mode.value for mode in self.modes],
            "prune_layers": list(self.prune_layers),
            "patterns": list(self.patterns),
            "splits": list(self.splits),
            "schedule": self.schedule.value,
            "prop_attn": list(self.prop_attn),
            "selections": [select.value for select in self.selections],
            "precisions": [precision.value for precision in self.precisions],
            "batches": list(self.batches),
            "image_size": None if self.image_size is None else list(self.image_size),
        }


def _modes(asked: tuple[Mode, ...] | None, *, alone: bool) -> tuple[Mode, ...]:
    """Return the modes asked for, or the default if neither patterns nor splits are given."""
    if asked is not None:
        return asked
    return (Mode.WEIGHTED_MLERP,) if alone else ()


@dataclass(frozen=True)
class Cell:
    """File to make and to measure.

    Attributes:
        model: name given by the user.
        r: tokens asked to be removed per layer.
        mode: the mode asked for, `PATTERN` or `FULL`.
        pattern: one letter per layer.
        removed: tokens that leave each layer.
        prop_attn: token sizes enter the attention.
        precision: type of the file.
        gmacs: multiply-accumulates of the reduced model for one image, in 10^9, counted as in the paper.
        gmacs_full: multiply-accumulates without a reduction.
        select: how the tokens that leave are chosen.
    """

    model: str
    r: int
    mode: str
    pattern: str
    removed: tuple[int, ...]
    prop_attn: bool
    precision: Precision
    gmacs: float
    gmacs_full: float
    select: Selection = Selection.BIPARTITE

    @property
    def full(self) -> bool:
        """True if no token leaves."""
        return not any(self.removed)

    @property
    def reduction(self) -> Reduction:
        """Options that give this cell's plan."""
        return Reduction(r=self.removed, pattern=self.pattern, prop_attn=self.prop_attn, select=self.select)

    @property
    def trace(self) -> Hashable:
        """Key that is equal for cells that can be written from one trace: everything but their methods."""
        sized = self.prop_attn or any(Method(letter).weighs for letter in self.pattern)
        file = self.precision.traced, self.precision.least_opset
        return self.model, self.removed, self.prop_attn, sized, self.select, *file

    def __str__(self) -> str:
        what = "full" if self.full else f"r={self.r} {label_of(self.pattern, self.prop_attn, self.select)}"
        return f"{self.model} {what} {self.precision.value}"


def expand(grid: Grid) -> tuple[tuple[Cell, ...], tuple[SweepFailure, ...]]:
    """Return the cells of a grid, per model with the full FP32 cell first, and what cannot be planned.

    Two ways to ask for the same reduction make one cell, named after the first; a model's full cell is always
    included, because everything is compared with it.
    """
    cells: dict[tuple[Any, ...], Cell] = {}
    failures: list[SweepFailure] = []
    for model in grid.models:
        try:
            spec, unreduced = plan_model(model, Reduction(r=0), grid.image_size)
        except TofuError as error:
            failures.append(SweepFailure.of(model, "all", error))
            continue
        _add(cells, model, 0, FULL, unreduced, Precision.FP32)
        for r in grid.r:
            for mode, label, reduction in _reductions(grid, r, len(unreduced.layers)):
                for select, prop_attn in product(grid.selections, grid.prop_attn):
                    try:
                        plan = make_plan(spec, replace(reduction, prop_attn=prop_attn, select=select))
                        check_structure(model, plan, grid.image_size)
                    except TofuError as error:
                        failures.append(SweepFailure.of(model, f"r={r} {label}", error))
                        continue
                    for precision in grid.precisions:
                        _add(cells, model, r, mode, plan, precision)
    return tuple(cells.values()), tuple(dict.fromkeys(failures))


def _add(cells: dict[tuple[Any, ...], Cell], model: str, r: int, mode: str, plan: Plan, precision: Precision) -> None:
    removed = tuple(layer.removed for layer in plan.layers)
    select = plan.reduction.select if any(removed) else Selection.BIPARTITE
    pattern = plan.pattern if any(removed) else Method.NONE.value * len(removed)
    cell = Cell(
        model=model,
        r=r if any(removed) else 0,
        mode=mode if any(removed) else FULL,
        pattern=pattern,
        removed=removed,
        prop_attn=plan.prop_attn,
        precision=precision,
        gmacs=round(plan.gmacs_reduced, 4),
        gmacs_full=round(plan.gmacs_full, 4),
        select=select,
    )
    cells.setdefault((model, pattern, removed, plan.prop_attn, select, precision), cell)


def _reductions(grid: Grid, r: int, depth: int) -> Iterator[tuple[str, str, Reduction]]:
    """Yield the reported mode, words for messages, and the reduction, for one r and a model of this depth."""
    for mode in grid.modes:
        for layers in grid.prune_layers:
            label = mode.value if layers is None else f"{mode.value}, {layers} layers pruning"
            yield mode.value, label, Reduction(r=r, mode=mode, prune_layers=layers, schedule=grid.schedule)
    for text in grid.patterns:
        yield PATTERN, text, Reduction(r=r, pattern=expand_pattern(text), schedule=grid.schedule)
    for split in grid.splits:
        for pattern in split_patterns(split, depth):
            yield PATTERN, compact(pattern), Reduction(r=r, pattern=pattern, schedule=grid.schedule)


def split_patterns(split: str, depth: int) -> tuple[str, ...]:
    """Return all patterns of `depth` layers with at most one switch between two letters: `AAA`, `PAA`, ..., `PPP`."""
    first, second = split[0], split[1]
    return tuple(first * d + second * (depth - d) for d in range(depth + 1))


def expand_pattern(text: str) -> str:
    """Expand a pattern: `P6M6` becomes `PPPPPPMMMMMM`, a letter without a number stands for one layer.

    Raises:
        OptionError: the text has anything but letters of methods, each with an optional number.
    """
    runs = _RUN.findall(text)
    if not text or "".join(letter + number for letter, number in runs) != text:
        raise OptionError(
            f"pattern {text!r}, expected letters of {_LETTERS}, each for one layer or with a number of layers behind "
            "it: PPPPPPMMMMMM or P6M6"
        )
    if any(len(number) > _MOST_DIGITS or number.strip("0") == "" != number for _, number in runs):
        raise OptionError(f"pattern {text!r}, expected numbers of layers from 1 to {10**_MOST_DIGITS - 1}")
    return "".join(letter * int(number or 1) for letter, number in runs)
