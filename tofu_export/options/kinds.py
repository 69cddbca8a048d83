"""Enums and values of options that several requests share, and their parsers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from tofu_export.errors import OptionError

__all__ = [
    "DEFAULT_KEEP_RATE",
    "DEFAULT_R",
    "MINIMUM_OPSET",
    "OVER_CAPACITY",
    "PATCH_GROUPS",
    "PLAN_SUFFIXES",
    "PROP_ATTN",
    "AttentionForm",
    "BatchRange",
    "IoType",
    "KeySource",
    "Method",
    "Mode",
    "OutputKind",
    "Precision",
    "PrunedSizes",
    "Schedule",
    "Target",
    "parse_layers",
    "parse_precisions",
    "parse_r",
]

MINIMUM_OPSET = 18
"""Oldest opset written: LayerNormalization (17) and reductions whose axes are inputs (18)."""

DEFAULT_R = 16
"""Tokens removed per layer by default."""

DEFAULT_KEEP_RATE = 0.7
"""Keep rate of trained predictors by default. Source: arXiv 2106.02034."""

PROP_ATTN = {"auto": None, "on": True, "off": False}
"""Values of `--prop-attn`, as `Reduction.prop_attn` holds them."""

PLAN_SUFFIXES = (".engine", ".plan", ".trt")
"""File name suffixes of TensorRT engines."""

PATCH_GROUPS = "patch_groups"
"""Name of the output that `--token-map` adds to any output kind, [B, patches] int64: the row of the reduced sequence
that holds each input patch, alone or merged with others, or -1 if it was pruned."""

OVER_CAPACITY = "tokens_over_capacity"
"""Name of the output of a file whose tokens halt and leave, [B] int64: how many tokens of an image had to leave before
they halted, because more were at work than a block has places for. 0: the file computes what the masked one does."""


class Method(str, Enum):
    """How one layer removes its matched sources. The value is the letter used in patterns."""

    PRUNE = "P"
    AVERAGE = "A"
    MLERP = "M"
    WEIGHTED_MLERP = "W"
    TOME = "T"
    NONE = "-"

    @classmethod
    def named(cls, text: object) -> Method | None:
        """Return the method with this word or letter, or None; documents of early versions have `weighted_mlerp`."""
        known = {name: method for method in cls for name in (method.value, method.word, method.name.lower())}
        return known.get(text) if isinstance(text, str) else None

    @property
    def word(self) -> str:
        """Name of the method in options, documents and graphs, for example `weighted-mlerp`."""
        return self.name.lower().replace("_", "-")

    @property
    def merges(self) -> bool:
        """True if destinations change."""
        return self not in (Method.PRUNE, Method.NONE)

    @property
    def weighs(self) -> bool:
        """True if the mean is weighted by token sizes."""
        return self in (Method.WEIGHTED_MLERP, Method.TOME)

    @property
    def keeps_norm(self) -> bool:
        """True if the mean is rescaled to the largest norm of its group."""
        return self in (Method.MLERP, Method.WEIGHTED_MLERP)


class Mode(str, Enum):
    """What the layers after the pruning layers do; `PRUNE` prunes in all layers.

    `WEIGHTED_MLERP` is MLERP of the size-weighted mean, in all but the first quarter of the layers. The other modes are
    those of the paper, and ToMe.
    """

    WEIGHTED_MLERP = "weighted-mlerp"
    MLERP = "mlerp"
    AVERAGE = "average"
    PRUNE = "prune"
    TOME = "tome"

    @property
    def method(self) -> Method:
        """Method of the merging layers."""
        return Method[self.name]


class Schedule(str, Enum):
    """How a single `r` is distributed over the layers."""

    CONSTANT = "constant"
    LINEAR = "linear"

    def spread(self, r: int, depth: int) -> tuple[int, ...]:
        """Return the number of tokens to remove in each of `depth` layers; no entry falls when r grows."""
        if self is Schedule.CONSTANT or depth == 1:
            return (r,) * depth
        return tuple(round(2 * r * (depth - 1 - layer) / (depth - 1)) for layer in range(depth))


class KeySource(str, Enum):
    """Which keys tokens are compared by in attention with rotary embeddings."""

    POST_ROPE = "post-rope"
    PRE_ROPE = "pre-rope"


class PrunedSizes(str, Enum):
    """What happens to the size of a pruned token: its destination takes it over, or it is lost.

    The paper does not say. On DeiT-Ti a destination that stands for what was pruned into it keeps 4 points of top-1 at
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
        """Floating-point type in which a file of this precision is traced and lowered."""
        if self in (Precision.INT8_FP16, Precision.FP8):
            return Precision.FP16
        return Precision.FP32 if self is Precision.INT8 else self

    @property
    def calibrated(self) -> bool:
        """True if activation ranges are calibrated on images."""
        return self in (Precision.INT8, Precision.INT8_FP16, Precision.FP8)

    @property
    def least_opset(self) -> int:
        """Oldest opset that supports the precision: FP16 scales and E4M3 came with 19."""
        return 19 if self.calibrated and self.traced is Precision.FP16 else MINIMUM_OPSET

    @property
    def runs_on_cpus(self) -> bool:
        """True if CPUs compute in this type, so that timing it on a CPU is meaningful."""
        return self.traced is Precision.FP32

    @property
    def built(self) -> bool:
        """True if engines are built from such files: the rest of an int8 file is FP32, slower on a GPU than FP16."""
        return self is not Precision.INT8


class AttentionForm(str, Enum):
    """How attention is written in half precision.

    `FUSED`: TensorRT makes one kernel of it. `FP32_ACCUMULATE`: queries, keys and values are widened to FP32 in
    front of the products. `UNFUSED`: the softmax is in FP32, of scores minus their maximum, which changes no
    number but makes TensorRT keep products and softmax as separate kernels.
    """

    FUSED = "fused"
    FP32_ACCUMULATE = "fp32-accumulate"
    UNFUSED = "unfused"

    @property
    def fallbacks(self) -> tuple[AttentionForm, ...]:
        """Forms to try, in this order, if an engine of this form gives wrong numbers."""
        forms = tuple(AttentionForm)
        return forms[forms.index(self) + 1 :]


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
    """What a file outputs. B is the batch, N the tokens of the model, prefix included, C its channels.

    `LOGITS` [B, classes]: output of the classifier. `FEATURES` [B, C]: its input, pooled and normalised. `TOKENS`
    [B, N', C]: the reduced sequence after the last norm, and `token_map` [B, N] int64, the row of it that stands for
    each token. `GRID` [B, C, height, width]: all patch tokens, restored.
    """

    LOGITS = "logits"
    FEATURES = "features"
    TOKENS = "tokens"
    GRID = "grid"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the outputs that the kind alone decides."""
        return ("tokens", "token_map") if self is OutputKind.TOKENS else (self.value,)

    @classmethod
    def choose(cls, asked: OutputKind | None, num_classes: int, name: str) -> OutputKind:
        """Return the kind asked for; by default logits if the model `name` has a classifier, otherwise features.

        Raises:
            OptionError: logits are asked for, but the model has no classifier.
        """
        if asked is cls.LOGITS and not num_classes:
            raise OptionError(
                f"{name} has no classifier, so it gives no logits: choose --output-kind features (its pooled "
                "features), tokens or grid, or give it a classifier with --num-classes"
            )
        return asked or (cls.LOGITS if num_classes else cls.FEATURES)


@dataclass(frozen=True)
class BatchRange:
    """Smallest, preferred and largest batch size that a file serves.

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
    """Read a comma list of layers, numbered from 0; empty text gives an empty tuple.

    Raises:
        OptionError: a part is not a whole number >= 0.
    """
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(part.isdecimal() for part in parts):
        raise OptionError(f"layers are {text!r}, expected numbers from 0 with commas between: --exclude-layers 0,11")
    return tuple(int(part) for part in parts)


def parse_precisions(text: str) -> tuple[Precision, ...]:
    """Read a comma list of precisions, in the order given, without duplicates.

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
