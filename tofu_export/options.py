"""What a user can ask for, as frozen values that are checked when they are made.

The command line and the Python API build the same objects, so that both refuse the same things in the same words.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from tofu_export.errors import OptionError

__all__ = [
    "MINIMUM_OPSET",
    "BatchRange",
    "IoType",
    "Method",
    "Mode",
    "Precision",
    "Reduction",
    "Schedule",
    "Target",
    "parse_precisions",
    "parse_r",
]

MINIMUM_OPSET = 18
"""Oldest opset written: LayerNormalization (17) and reductions whose axes are inputs (18)."""

PAPER_PRUNE_LAYERS = 6
"""Depth `d` up to which the hybrid prunes. Source: arXiv 2312.01026, section 3.3 (12 and 24 layers)."""


class Method(str, Enum):
    """How the matched sources of one layer leave. The value is the letter used in patterns."""

    PRUNE = "P"
    AVERAGE = "A"
    MLERP = "M"
    TOME = "T"
    NONE = "-"

    @property
    def merges(self) -> bool:
        """True where destinations change."""
        return self in (Method.AVERAGE, Method.MLERP, Method.TOME)


class Mode(str, Enum):
    """What the layers after the pruning ones do; `PRUNE` prunes in all of them."""

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


class Precision(str, Enum):
    """Floating-point type of the weights and activations in a file."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"


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


@dataclass(frozen=True)
class Reduction:
    """How many tokens leave, where and how.

    Attributes:
        r: tokens to remove per layer: one number for all layers, or one per layer.
        mode: what the merging layers do.
        prune_layers: layers `l < prune_layers` (0-based) prune, the others merge. None: 6 as in the paper, at
            most half of the layers, and 0 for `tome`, which has no pruning layers.
        pattern: one letter per layer (P prune, A average, M mlerp, T tome, - none); overrides mode and prune_layers.
        schedule: how a single r is spread over the layers.
        prop_attn: track token sizes and add their logarithm to the attention scores. None: only for `tome`.

    Raises:
        OptionError: a value is out of range or two of them contradict each other.

    Source: arXiv 2312.01026, section 3.3 and equation 7.
    """

    r: int | tuple[int, ...] = 16
    mode: Mode = Mode.MLERP
    prune_layers: int | None = None
    pattern: str | None = None
    schedule: Schedule = Schedule.CONSTANT
    prop_attn: bool | None = None

    def __post_init__(self) -> None:
        for name, kind in (("mode", Mode), ("schedule", Schedule)):
            if not isinstance(getattr(self, name), kind):
                names = ", ".join(f"{kind.__name__}.{member.name}" for member in kind)
                raise OptionError(f"{name} is {getattr(self, name)!r}, expected one of {names}")
        if self.prop_attn not in (None, True, False):
            raise OptionError(f"prop_attn is {self.prop_attn!r}, expected True, False, or None for the default")
        for value in self.r if isinstance(self.r, tuple) else (self.r,):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise OptionError(f"r is {value!r}, expected a whole number of tokens >= 0, for example --r 16")
        if self.r == ():
            raise OptionError("r is an empty list, expected one number, or one per layer")
        if self.prune_layers is not None and (not isinstance(self.prune_layers, int) or self.prune_layers < 0):
            raise OptionError(f"prune_layers is {self.prune_layers}, expected a whole number of layers >= 0")
        if self.pattern is not None:
            _check_pattern(self.pattern)
            if self.prune_layers is not None:
                raise OptionError("pattern and prune_layers both say which layers prune: give one of them")
        if isinstance(self.r, tuple) and self.schedule is not Schedule.CONSTANT:
            raise OptionError(f"a list of r already is a schedule: leave out schedule={self.schedule.value!r}")

    def amounts(self, depth: int) -> tuple[int, ...]:
        """Tokens asked for in each of `depth` layers, before the cap that the token count sets.

        A linear schedule falls from 2r in the first layer to 0 in the last and removes as many in all as a constant
        one (up to rounding).

        Raises:
            OptionError: a list of r does not have one entry per layer.
        """
        if isinstance(self.r, tuple):
            if len(self.r) != depth:
                raise OptionError(
                    f"r lists {len(self.r)} layers, but the model has {depth}: give one number, or {depth} of them"
                )
            return self.r
        if self.schedule is Schedule.CONSTANT or depth == 1:
            return (self.r,) * depth
        return tuple(round(2 * self.r * (depth - 1 - layer) / (depth - 1)) for layer in range(depth))

    def methods(self, depth: int) -> tuple[Method, ...]:
        """The method of each of `depth` layers.

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
        """Number of leading layers that prune when no pattern is given: by default 6, but never more than half."""
        if self.prune_layers is not None:
            return self.prune_layers
        return 0 if self.mode is Mode.TOME else min(PAPER_PRUNE_LAYERS, depth // 2)

    def tracks_sizes(self, depth: int) -> bool:
        """True if token sizes are tracked and enter the attention.

        Raises:
            OptionError: sizes are switched off although a tome layer needs them.
        """
        needed = Method.TOME in self.methods(depth)
        if needed and self.prop_attn is False:
            raise OptionError("tome weighs tokens by their size: it cannot run with --no-prop-attn")
        return needed if self.prop_attn is None else self.prop_attn


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


def _check_pattern(pattern: str) -> None:
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
