"""The options of a reduction: how many tokens leave, where and how."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tofu_export.errors import OptionError
from tofu_export.options import shared
from tofu_export.options.declaration import Alias, Section, group, opt
from tofu_export.options.halting import HaltingOptions
from tofu_export.options.kinds import (
    DEFAULT_KEEP_RATE,
    DEFAULT_R,
    PROP_ATTN,
    KeySource,
    Method,
    Mode,
    OutputKind,
    PrunedSizes,
    Schedule,
    parse_r,
)
from tofu_export.options.selection import Selection

__all__ = ["Reduction"]

PAPER_PRUNE_LAYERS = 6
"""Depth `d` up to which the paper's hybrid prunes. Source: arXiv 2312.01026, section 3.3 (12 and 24 layers)."""


@dataclass(frozen=True)
class Reduction:
    """How many tokens leave, where and how.

    The amount is given by one of `r`, `keep_rate`, `gmacs`, `speedup` and `capacity`. Without any of them r is 16, a
    predictor's keep rate 0.7, and if tokens halt none leaves: r is 0.

    Attributes:
        r: tokens to remove per layer: one number for all layers, or one per layer. None if not given so.
        capacity: share of the images, over 0 and up to 1, whose tokens at work all have a place in every block; the
            places are measured on images (`job.capacity`). Only if tokens halt.
        mode: what the merging layers do.
        prune_layers: layers `l < prune_layers` (0-based) prune, the others merge. None: a quarter of the layers for
            weighted MLERP, 0 for `tome`, which has no pruning layers, and for the others 6 as in the paper, at most
            half of the layers.
        pattern: one letter per layer (P prune, A average, M mlerp, W weighted mlerp, T tome, - none); overrides mode
            and prune_layers.
        schedule: how a single r is spread over the layers.
        prop_attn: track token sizes and add their logarithm to the attention scores, as ToMe does (arXiv 2210.09461,
            section 3.3). None: on, except for masked autoencoders (`ModelSpec.masked_autoencoder`).
        pruned_sizes: what happens to the size of a pruned token, if sizes are tracked.
        keep_rate: share of its unprotected tokens that each layer keeps at least, over 0 and up to 1; with predictors
            the n-th of them keeps the n-th power of it, of all patches.
        gmacs: budget: the reduced model needs at most this many GMACs (`tofu_export.planning.budget`).
        speedup: budget: the reduced model needs at least this many times fewer multiply-accumulates; not a time.
        exclude_layers: layers (0-based) that remove nothing, however the amount is given.
        restore_grid: after the last block every token that left comes back as a copy of the one that stands for it,
            so that norm, pooling and head see the sequence at its full length. None: only for a grid output.
        keys: tokens are compared by the keys after or before their rotary embedding.
        select: how the tokens that leave are chosen.
        halting: when tokens halt, if `select` says that they do.
        plan_file: name of the file that r and pattern come from (`planning.plan_file`).
        from_plan: r and pattern are those of a plan, in a file or not: they hold exactly, and are refused if the model
            cannot remove so many. Otherwise r is capped to what a layer can remove.

    Raises:
        OptionError: a value is out of range or two of them contradict each other.

    Source: arXiv 2312.01026, section 3.3 and equation 7.
    """

    r: int | tuple[int, ...] | None = opt(
        None, "Tokens to remove per layer: one number, or one per layer.", Section.REDUCTION,
        metavar="N|N,N,...", unless=str(DEFAULT_R), parse=parse_r, everyday=True,
    )  # fmt: skip
    keep_rate: float | None = opt(
        None, "Instead of --r: share of its tokens that each layer keeps, for example 0.9.", Section.REDUCTION,
        metavar="SHARE",
    )  # fmt: skip
    gmacs: float | None = opt(
        None, "Instead of --r: the smallest reduction that needs at most X GMACs per image.", Section.REDUCTION,
        metavar="X",
    )  # fmt: skip
    speedup: float | None = opt(
        None, "Instead of --r: the smallest reduction that needs X times fewer GMACs, such as 1.8.", Section.REDUCTION,
        metavar="X", everyday=True,
    )  # fmt: skip
    capacity: float | None = opt(
        None, "Instead of --r, with --select halting: places for all tokens at work in this share of --images.",
        Section.REDUCTION, metavar="SHARE",
    )  # fmt: skip
    mode: Mode = opt(Mode.WEIGHTED_MLERP, "What merging layers do.", Section.REDUCTION, everyday=True)
    prune_layers: int | None = opt(
        None, "The first D layers prune, the others merge.", Section.REDUCTION, metavar="D", minimum=0,
        unless="a quarter of the layers; tome: 0; the paper's modes: 6, at most half",
    )  # fmt: skip
    pattern: str | None = opt(
        None, "Instead of both: a letter per layer, P prune, A average, M mlerp, W weighted mlerp, T tome, - none.",
        Section.REDUCTION, metavar="LETTERS",
    )  # fmt: skip
    schedule: Schedule = shared.schedule()
    exclude_layers: tuple[int, ...] = shared.exclude_layers()
    prop_attn: bool | None = opt(
        None, shared.PROP_ATTN_HELP, Section.REDUCTION, choices=PROP_ATTN,
        alias=Alias("--no-prop-attn", "off", "The same as --prop-attn off."),
    )  # fmt: skip
    pruned_sizes: PrunedSizes = opt(
        PrunedSizes.TAKE_OVER, "A destination takes over the size of what is pruned into it, or it is lost.",
        Section.REDUCTION,
    )  # fmt: skip
    restore_grid: bool | None = opt(
        None, "Bring all tokens back after the last block.", Section.REDUCTION, unless="only for a grid output"
    )
    keys: KeySource = opt(
        KeySource.POST_ROPE, "Compare tokens by keys with or without their rotary embedding.", Section.REDUCTION
    )
    select: Selection = shared.select()
    halting: HaltingOptions = group(HaltingOptions)
    plan_file: str | None = opt(
        None, "Instead of all these: a file that plan -o or tune wrote, or a report.json.", Section.REDUCTION,
        metavar="FILE", typed=Path, everyday=True,
    )  # fmt: skip
    from_plan: bool = False

    def __post_init__(self) -> None:
        if not self.asked and self.select is Selection.PREDICTOR:
            object.__setattr__(self, "keep_rate", DEFAULT_KEEP_RATE)
        elif not self.asked:
            object.__setattr__(self, "r", 0 if self.select is Selection.HALTING else DEFAULT_R)
        if len(self.asked) > 1:
            raise OptionError(
                f"{' and '.join(self.asked)} each say how many tokens leave: give one of r, keep_rate, gmacs, speedup, "
                "capacity"
            )
        if self.r is not None:
            _check_r(self.r)
        ranges = {"keep_rate": (0.0, 1.0), "capacity": (0.0, 1.0), "gmacs": (0.0, math.inf), "speedup": (1.0, math.inf)}
        for name, (least, most) in ranges.items():
            _check_number(name, getattr(self, name), least, most)
        for layer in self.exclude_layers:
            if isinstance(layer, bool) or not isinstance(layer, int) or layer < 0:
                raise OptionError(f"exclude_layers has {layer!r}, expected numbers of layers, the first one being 0")
        object.__setattr__(self, "exclude_layers", tuple(sorted(set(self.exclude_layers))))
        kinds = {
            "mode": Mode, "schedule": Schedule, "keys": KeySource, "pruned_sizes": PrunedSizes, "select": Selection,
            "halting": HaltingOptions,
        }  # fmt: skip
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise OptionError(f"{name} is {getattr(self, name)!r}, expected a {kind.__name__}")
        for name in ("prop_attn", "restore_grid"):
            if getattr(self, name) not in (None, True, False):
                raise OptionError(f"{name} is {getattr(self, name)!r}, expected True, False or None")
        if self.prune_layers is not None and (
            isinstance(self.prune_layers, bool) or not isinstance(self.prune_layers, int) or self.prune_layers < 0
        ):
            raise OptionError(f"prune_layers is {self.prune_layers!r}, expected a number of layers >= 0")
        if self.pattern is not None:
            _check_pattern(self.pattern)
            if self.prune_layers is not None:
                raise OptionError("pattern and prune_layers both say which layers prune: give one of them")
        self._check_halting()
        if self.plan_file is not None:
            object.__setattr__(self, "from_plan", True)
        if self.from_plan and not (isinstance(self.r, tuple) and self.pattern is not None):
            raise OptionError("a plan gives r and a method for each layer: give both, or leave out plan_file")
        if self.schedule is not Schedule.CONSTANT and (isinstance(self.r, tuple) or self.keep_rate is not None):
            given = "a list of r" if self.keep_rate is None else f"keep_rate {self.keep_rate:g}"
            raise OptionError(
                f"{given} already is a schedule: leave out schedule={self.schedule.value!r}, or give one number as r"
            )

    def _check_halting(self) -> None:
        """Refuse what does not go with tokens that halt, or only with them."""
        if not self.select.halts:
            if self.capacity is not None:
                raise OptionError("capacity is for tokens that halt: give select='halting' (--select halting) with it")
            if self.halting != HaltingOptions():
                raise OptionError(
                    "a halting gate is given, but no token halts: add select='halting' (--select halting)"
                )
            return
        if self.pattern is not None and set(self.pattern) - {Method.PRUNE.value, Method.NONE.value}:
            raise OptionError(
                f"pattern {self.pattern!r} merges tokens, but a halted token only leaves: P or - per layer"
            )
        if self.mode not in (Mode.WEIGHTED_MLERP, Mode.PRUNE) or self.prune_layers is not None:
            raise OptionError("a halted token leaves and never merges: leave out mode and prune_layers")
        if self.prop_attn or self.restore_grid:
            wrong = "prop_attn" if self.prop_attn else "restore_grid"
            raise OptionError(f"{wrong} does not go with select='halting', whose tokens leave without a trace")

    @property
    def asked(self) -> Mapping[str, int | float | tuple[int, ...]]:
        """The one way in which the amount is given, by the name of its field."""
        ways = ("r", "keep_rate", "gmacs", "speedup", "capacity")
        return {name: getattr(self, name) for name in ways if getattr(self, name) is not None}

    @property
    def plan_words(self) -> str:
        """The plan that it comes from, for messages; empty without one."""
        if self.plan_file is not None:
            return f"plan file {self.plan_file}"
        return "the plan" if self.from_plan else ""

    @property
    def unmeasured(self) -> Reduction:
        """The reduction with no token leaving in place of a capacity that is still to be measured."""
        return self if self.capacity is None else replace(self, capacity=None, r=0)

    @property
    def takes_over(self) -> bool:
        """True if the size of a pruned token goes to a destination."""
        return self.sizes_of_pruned is PrunedSizes.TAKE_OVER

    @property
    def sizes_of_pruned(self) -> PrunedSizes:
        """What happens to the size of a pruned token: lost if the selection finds no similar destination."""
        return self.pruned_sizes if self.select.finds_partners else PrunedSizes.LOST

    def amounts(self, depth: int) -> tuple[int, ...]:
        """Return the tokens that `r` asks for in each of `depth` layers, before exclusions and the cap per layer.

        A linear schedule falls from 2r in the first layer to 0 in the last and removes as many in all as a constant
        one (up to rounding).

        Raises:
            OptionError: a list of r does not have one entry per layer, or the amount is not given by r.
        """
        if self.r is None:
            raise OptionError(f"{' and '.join(self.asked)} sets the amounts only for a known model: see make_plan")
        if isinstance(self.r, tuple):
            if len(self.r) != depth:
                raise OptionError(
                    f"r lists {len(self.r)} layers, but the model has {depth}: give one number, or {depth} of them"
                )
            return self.r
        return self.schedule.spread(self.r, depth)

    def methods(self, depth: int) -> tuple[Method, ...]:
        """Return the method of each of `depth` layers; excluded layers have none.

        Raises:
            OptionError: the pattern does not have one letter per layer, or prune_layers or an excluded layer exceeds
                the depth.
        """
        if self.exclude_layers and self.exclude_layers[-1] >= depth:
            raise OptionError(
                f"exclude_layers has {self.exclude_layers[-1]}, but the model's {depth} layers are 0 to {depth - 1}"
            )
        chosen = self.methods_before_exclusion(depth)
        return tuple(Method.NONE if layer in self.exclude_layers else method for layer, method in enumerate(chosen))

    def methods_before_exclusion(self, depth: int) -> tuple[Method, ...]:
        """Return the method that pattern, mode and prune_layers give each of `depth` layers.

        Raises:
            OptionError: the pattern does not have one letter per layer, or prune_layers exceeds the depth.
        """
        if self.pattern is not None:
            if len(self.pattern) != depth:
                raise OptionError(
                    f"pattern {self.pattern!r} has {len(self.pattern)} letters, but the model has {depth} layers"
                )
            return tuple(Method(letter) for letter in self.pattern)
        if self.prune_layers is not None and self.prune_layers > depth:
            raise OptionError(f"prune_layers is {self.prune_layers}, but the model has only {depth} layers")
        pruning = depth if self.select.halts else self.boundary(depth)
        return (Method.PRUNE,) * pruning + (self.mode.method,) * (depth - pruning)

    def boundary(self, depth: int) -> int:
        """Return the number of leading layers that prune when no pattern is given.

        Source: for weighted MLERP measured on DeiT-Ti (docs/decisions/029), for the others the paper's d.
        """
        if self.prune_layers is not None:
            return self.prune_layers
        if self.mode is Mode.WEIGHTED_MLERP:
            return depth // 4
        return 0 if self.mode is Mode.TOME else min(PAPER_PRUNE_LAYERS, depth // 2)

    def restoring_for(self, output: OutputKind | None) -> Reduction:
        """Return the reduction with `restore_grid` decided for an output kind: a grid needs all tokens.

        Raises:
            OptionError: `restore_grid` is off although the output is a grid.
        """
        needed = output is OutputKind.GRID
        if needed and self.restore_grid is False:
            raise OptionError("a grid has all tokens: leave out --no-restore-grid, or ask for --output-kind tokens")
        return replace(self, restore_grid=needed) if self.restore_grid is None else self


def _check_r(r: int | tuple[int, ...]) -> None:
    if r == ():
        raise OptionError("r is an empty list, expected one number, or one per layer")
    for value in r if isinstance(r, tuple) else (r,):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise OptionError(f"r is {value!r}, expected a whole number of tokens >= 0, for example --r 16")


def _check_number(name: str, value: float | None, least: float, most: float) -> None:
    """Refuse a value that is not a finite number in range; `least` itself is in range unless it is 0."""
    if value is None:
        return
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not (least <= value <= most) or value == 0:
        bounds = f"of at least {least:g}" if least else "over 0"
        raise OptionError(f"{name} is {value!r}, expected a number {bounds}{f', at most {most:g}' * (most == 1)}")


def _check_pattern(pattern: str) -> None:
    if not isinstance(pattern, str):
        raise OptionError(f"pattern is {pattern!r}, expected text with one letter per layer, for example PPPPPPMMMMMM")
    wrong = _first(letter for letter in pattern if letter not in {method.value for method in Method})
    if wrong is not None:
        known = ", ".join(f"{method.value} ({method.word})" for method in Method)
        raise OptionError(f"pattern {pattern!r} has the letter {wrong!r}, expected one of {known} per layer")
    if not pattern:
        raise OptionError("pattern is empty, expected one letter per layer, for example PPPPPPMMMMMM")


def _first(items: Iterable[str]) -> str | None:
    return next(iter(items), None)
