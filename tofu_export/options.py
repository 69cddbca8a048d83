"""What a user can ask for, as frozen values that are checked when they are made.

The command line and the Python API build the same objects, so that both refuse the same things in the same words.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from tofu_export.errors import OptionError

__all__ = [
    "DEFAULT_R",
    "MINIMUM_OPSET",
    "PATCH_GROUPS",
    "BatchRange",
    "IoType",
    "KeySource",
    "Method",
    "Mode",
    "OutputKind",
    "Precision",
    "PrunedSizes",
    "Reduction",
    "Schedule",
    "Target",
    "parse_layers",
    "parse_precisions",
    "parse_r",
]

MINIMUM_OPSET = 18
"""Oldest opset written: LayerNormalization (17) and reductions whose axes are inputs (18)."""

DEFAULT_R = 16
"""Tokens removed per layer when nothing else is asked for."""

PATCH_GROUPS = "patch_groups"
"""The output that `--token-map` adds to any kind, [B, patches] int64: the row of the reduced sequence that each input
patch ended in, alone or merged with others, and -1 if it was pruned."""

PAPER_PRUNE_LAYERS = 6
"""Depth `d` up to which the paper's hybrid prunes. Source: arXiv 2312.01026, section 3.3 (12 and 24 layers)."""


class Method(str, Enum):
    """How the matched sources of one layer leave. The value is the letter used in patterns."""

    PRUNE = "P"
    AVERAGE = "A"
    MLERP = "M"
    WEIGHTED_MLERP = "W"
    TOME = "T"
    NONE = "-"

    @property
    def merges(self) -> bool:
        """True where destinations change."""
        return self not in (Method.PRUNE, Method.NONE)

    @property
    def weighs(self) -> bool:
        """True where the mean is weighted by token sizes."""
        return self in (Method.WEIGHTED_MLERP, Method.TOME)

    @property
    def keeps_norm(self) -> bool:
        """True where the mean gets the largest norm of its group."""
        return self in (Method.MLERP, Method.WEIGHTED_MLERP)


class Mode(str, Enum):
    """What the layers after the pruning ones do; `PRUNE` prunes in all of them.

    `WEIGHTED_MLERP` is MLERP of the size-weighted mean, in all but the first quarter of the layers. The others are the
    paper's, and ToMe.
    """

    WEIGHTED_MLERP = "weighted-mlerp"
    MLERP = "mlerp"
    AVERAGE = "average"
    PRUNE = "prune"
    TOME = "tome"

    @property
    def method(self) -> Method:
        """The method of the merging layers."""
        return Method[self.name]


class Schedule(str, Enum):
    """How a single `r` is spread over the layers."""

    CONSTANT = "constant"
    LINEAR = "linear"

    def spread(self, r: int, depth: int) -> tuple[int, ...]:
        """The amount of each of `depth` layers; none of them falls when r grows."""
        if self is Schedule.CONSTANT or depth == 1:
            return (r,) * depth
        return tuple(round(2 * r * (depth - 1 - layer) / (depth - 1)) for layer in range(depth))


class KeySource(str, Enum):
    """Which keys tokens are compared by, where the attention turns them by a rotary embedding."""

    POST_ROPE = "post-rope"
    PRE_ROPE = "pre-rope"


class PrunedSizes(str, Enum):
    """What becomes of the size of a pruned token: its destination takes it over, or it is lost.

    The paper is silent. On DeiT-Ti a destination that stands for what was pruned into it keeps 4 points of top-1 at
    r = 13 (docs/decisions/028).
    """

    TAKE_OVER = "take-over"
    LOST = "lost"


class Precision(str, Enum):
    """Type of the weights and activations in a file.

    `INT8`: matrix products with weights are in int8, everything else is float32: for CPUs. `INT8_FP16`, `FP8`: the
    float16 file with these products in int8 or E4M3: for GPUs (`tofu_export.trace.quantize`).
    """

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    INT8_FP16 = "int8-fp16"
    FP8 = "fp8"

    @property
    def traced(self) -> Precision:
        """The floating-point type that a file of this precision is traced and lowered in."""
        if self in (Precision.INT8_FP16, Precision.FP8):
            return Precision.FP16
        return Precision.FP32 if self is Precision.INT8 else self

    @property
    def calibrated(self) -> bool:
        """True where ranges of activations are taken from images."""
        return self in (Precision.INT8, Precision.INT8_FP16, Precision.FP8)

    @property
    def least_opset(self) -> int:
        """The oldest opset that can say it: FP16 scales and E4M3 came with 19."""
        return 19 if self.calibrated and self.traced is Precision.FP16 else MINIMUM_OPSET

    @property
    def runs_on_cpus(self) -> bool:
        """True where CPUs compute in this type, so that its time on one says something."""
        return self.traced is Precision.FP32

    @property
    def built(self) -> bool:
        """True where engines are built from such files: the rest of an int8 file is FP32, slower on a GPU than FP16."""
        return self is not Precision.INT8


class Target(str, Enum):
    """The runtime that a lowered graph is written for. `PORTABLE` is accepted by all of them."""

    PORTABLE = "portable"
    ONNXRUNTIME = "onnxruntime"
    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"


class IoType(str, Enum):
    """Type of an ONNX file's input and output."""

    FP32 = "fp32"
    MODEL = "model"


class OutputKind(str, Enum):
    """What a file gives. B is the batch, N the tokens of the model, prefix included, C its channels.

    `LOGITS` [B, classes]: the classifier's. `FEATURES` [B, C]: what it reads, pooled and normalised. `TOKENS`
    [B, N', C]: the reduced sequence after the last norm, and `token_map` [B, N] int64, the row of it that stands for
    each token. `GRID` [B, C, height, width]: all patch tokens, restored.
    """

    LOGITS = "logits"
    FEATURES = "features"
    TOKENS = "tokens"
    GRID = "grid"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return ("tokens", "token_map") if self is OutputKind.TOKENS else (self.value,)

    def names_with(self, token_map: bool) -> tuple[str, ...]:
        """Names of the outputs, with that of `--token-map` behind them if it is asked for."""
        return (*self.names, PATCH_GROUPS) if token_map else self.names

    @classmethod
    def choose(cls, asked: OutputKind | None, num_classes: int, name: str) -> OutputKind:
        """What was asked for, else logits where the model `name` has a classifier, and features where it has none.

        Raises:
            OptionError: logits are asked for, but there is no classifier.
        """
        if asked is cls.LOGITS and not num_classes:
            raise OptionError(
                f"{name} has no classifier, so it gives no logits: choose --output-kind features (its pooled "
                "features), tokens or grid, or give it a classifier with --num-classes"
            )
        return asked or (cls.LOGITS if num_classes else cls.FEATURES)


@dataclass(frozen=True)
class Reduction:
    """How many tokens leave, where and how.

    How many is said in one way: `r`, `keep_rate`, `gmacs` or `speedup`. Without any of them r is 16.

    Attributes:
        r: tokens to remove per layer: one number for all layers, or one per layer. None where another way is given.
        mode: what the merging layers do.
        prune_layers: layers `l < prune_layers` (0-based) prune, the others merge. None: a quarter of the layers for
            weighted MLERP, 0 for `tome`, which has no pruning layers, and for the others 6 as in the paper, at most
            half of the layers.
        pattern: one letter per layer (P prune, A average, M mlerp, W weighted mlerp, T tome, - none); overrides mode
            and prune_layers.
        schedule: how a single r is spread over the layers.
        prop_attn: track token sizes and add their logarithm to the attention scores, as ToMe does (arXiv 2210.09461,
            section 3.3). None: unless the model was trained as a masked autoencoder (`ModelSpec.masked_autoencoder`).
        pruned_sizes: what becomes of the size of a pruned token, where sizes are tracked.
        keep_rate: share of its unprotected tokens that each layer keeps at least, over 0 and up to 1.
        gmacs: budget: the reduced model needs at most so many GMACs (`tofu_export.planning.budget`).
        speedup: budget: the reduced model needs at least so many times fewer multiply-accumulates. No time is meant.
        exclude_layers: layers (0-based) that remove nothing, however the amount is given.
        restore_grid: after the last block every token that left comes back as a copy of the one that stands for it,
            so that norm, pooling and head see the sequence at its full length. None: only for a grid output.
        keys: tokens are compared by the keys as the attention uses them, turned by their places, or before that.
        plan_file: name of the file that r and pattern come from (`planning.plan_file`): they hold to the token, and are
            refused where a model cannot follow. None: r is capped to what a layer can remove.

    Raises:
        OptionError: a value is out of range or two of them contradict each other.

    Source: arXiv 2312.01026, section 3.3 and equation 7.
    """

    r: int | tuple[int, ...] | None = None
    mode: Mode = Mode.WEIGHTED_MLERP
    prune_layers: int | None = None
    pattern: str | None = None
    schedule: Schedule = Schedule.CONSTANT
    prop_attn: bool | None = None
    pruned_sizes: PrunedSizes = PrunedSizes.TAKE_OVER
    keep_rate: float | None = None
    gmacs: float | None = None
    speedup: float | None = None
    exclude_layers: tuple[int, ...] = ()
    restore_grid: bool | None = None
    keys: KeySource = KeySource.POST_ROPE
    plan_file: str | None = None

    def __post_init__(self) -> None:
        if not self.asked:
            object.__setattr__(self, "r", DEFAULT_R)
        if len(self.asked) > 1:
            raise OptionError(
                f"{' and '.join(self.asked)} each say how many tokens leave: give one of r, keep_rate, gmacs, speedup"
            )
        if self.r is not None:
            _check_r(self.r)
        for name, least, most in (("keep_rate", 0.0, 1.0), ("gmacs", 0.0, math.inf), ("speedup", 1.0, math.inf)):
            _check_number(name, getattr(self, name), least, most)
        for layer in self.exclude_layers:
            if isinstance(layer, bool) or not isinstance(layer, int) or layer < 0:
                raise OptionError(f"exclude_layers has {layer!r}, expected numbers of layers, the first one being 0")
        object.__setattr__(self, "exclude_layers", tuple(sorted(set(self.exclude_layers))))
        kinds = {"mode": Mode, "schedule": Schedule, "keys": KeySource, "pruned_sizes": PrunedSizes}
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
        if self.plan_file is not None and not (isinstance(self.r, tuple) and self.pattern is not None):
            raise OptionError("a plan file gives r and a method for each layer: give both, or leave out plan_file")
        if self.schedule is not Schedule.CONSTANT and (isinstance(self.r, tuple) or self.keep_rate is not None):
            given = "a list of r" if self.keep_rate is None else "keep_rate"
            raise OptionError(f"{given} already is a schedule: leave out schedule={self.schedule.value!r}")

    @property
    def asked(self) -> Mapping[str, int | float | tuple[int, ...]]:
        """The one way in which the amount is given, by the name of its field."""
        ways = {"r": self.r, "keep_rate": self.keep_rate, "gmacs": self.gmacs, "speedup": self.speedup}
        return {name: value for name, value in ways.items() if value is not None}

    def amounts(self, depth: int) -> tuple[int, ...]:
        """Tokens that `r` asks for in each of `depth` layers, before exclusions and the cap of the token count.

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
        """The method of each of `depth` layers, none in those that are excluded.

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
        """The method that pattern, mode and prune_layers give each of `depth` layers.

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
        pruning = self.boundary(depth)
        return (Method.PRUNE,) * pruning + (self.mode.method,) * (depth - pruning)

    def boundary(self, depth: int) -> int:
        """Number of leading layers that prune when no pattern is given.

        Source: for weighted MLERP measured on DeiT-Ti (docs/decisions/029), for the others the paper's d.
        """
        if self.prune_layers is not None:
            return self.prune_layers
        if self.mode is Mode.WEIGHTED_MLERP:
            return depth // 4
        return 0 if self.mode is Mode.TOME else min(PAPER_PRUNE_LAYERS, depth // 2)

    def restoring_for(self, output: OutputKind | None) -> Reduction:
        """The same with `restore_grid` settled: a grid needs all tokens.

        Raises:
            OptionError: it is switched off although the output is the grid.
        """
        needed = output is OutputKind.GRID
        if needed and self.restore_grid is False:
            raise OptionError("a grid has all tokens: leave out --no-restore-grid, or ask for --output-kind tokens")
        return replace(self, restore_grid=needed) if self.restore_grid is None else self


@dataclass(frozen=True)
class BatchRange:
    """Smallest, preferred and largest batch that a file serves.

    Raises:
        OptionError: not 1 <= minimum <= optimum <= maximum.
    """

    minimum: int = 1
    optimum: int = 8
    maximum: int = 64

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.optimum <= self.maximum:
            raise OptionError(
                f"batch {self.minimum}:{self.optimum}:{self.maximum} is not MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX, "
                "for example --batch 1:8:64"
            )

    @classmethod
    def parse(cls, text: str) -> BatchRange:
        """Read `MIN:OPT:MAX`, or one number for all three.

        Raises:
            OptionError: the text has another form.
        """
        parts = text.split(":")
        if len(parts) not in (1, 3) or not all(part.strip().isdecimal() for part in parts):
            raise OptionError(f"batch {text!r} is not MIN:OPT:MAX or one number, for example --batch 1:8:64")
        sizes = [int(part) for part in parts]
        return cls(*(sizes * 3 if len(sizes) == 1 else sizes))

    def __str__(self) -> str:
        return f"{self.minimum}:{self.optimum}:{self.maximum}"


def parse_r(text: str) -> int | tuple[int, ...]:
    """Read `16`, or a comma list with one number per layer.

    Raises:
        OptionError: a part is not a whole number >= 0.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise OptionError(
            f"r is {text!r}, expected a whole number of tokens >= 0, or one per layer with commas between: --r 16"
        )
    return int(parts[0]) if len(parts) == 1 else tuple(int(part) for part in parts)


def parse_layers(text: str) -> tuple[int, ...]:
    """Read a comma list of layers, the first of which is 0; nothing gives none.

    Raises:
        OptionError: a part is not a whole number >= 0.
    """
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(part.isdecimal() for part in parts):
        raise OptionError(f"layers are {text!r}, expected numbers from 0 with commas between: --exclude-layers 0,11")
    return tuple(int(part) for part in parts)


def parse_precisions(text: str) -> tuple[Precision, ...]:
    """Read a comma list of precisions, in the order given, each once.

    Raises:
        OptionError: a name is not a precision, or none is given.
    """
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    known = [precision.value for precision in Precision]
    for name in names:
        if name not in known:
            raise OptionError(f"unknown precision {name!r}, expected some of {', '.join(known)}")
    if not names:
        raise OptionError(f"no precision given, expected some of {', '.join(known)}")
    return tuple(Precision(name) for name in dict.fromkeys(names))


def _check_r(r: int | tuple[int, ...]) -> None:
    if r == ():
        raise OptionError("r is an empty list, expected one number, or one per layer")
    for value in r if isinstance(r, tuple) else (r,):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise OptionError(f"r is {value!r}, expected a whole number of tokens >= 0, for example --r 16")


def _check_number(name: str, value: float | None, least: float, most: float) -> None:
    """Refuse what is not a finite number in range; `least` itself is in range unless it is 0."""
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
        raise OptionError(
            f"pattern {pattern!r} has the letter {wrong!r}, expected one of "
            "P (prune), A (average), M (mlerp), T (tome), - (none) per layer"
        )
    if not pattern:
        raise OptionError("pattern is empty, expected one letter per layer, for example PPPPPPMMMMMM")


def _first(items: Iterable[str]) -> str | None:
    return next(iter(items), None)
