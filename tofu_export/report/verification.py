"""Records in report.json of a file that was compared with its model, or with another file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["EAGER", "DecisionCounts", "InFp32", "LayerCheck", "TokenMapCheck", "ToleranceEntry", "Verification"]

EAGER = "the eager model"
"""Name of the default reference."""


@dataclass(frozen=True)
class DecisionCounts:
    """Counts of matching decisions.

    Attributes:
        layers: number of layers compared.
        compared: decisions compared.
        flips: decisions that differ.
        near_tie_flips: flips between candidates that the precision cannot distinguish.
        wrong: all other flips, and impossible decisions.
        largest_margin: largest margin of any flip, in cosine similarity.
        faults: impossible decisions, by layer.
    """

    layers: int
    compared: int
    flips: int
    near_tie_flips: int
    wrong: int
    largest_margin: float
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class TokenMapCheck:
    """Number of token map entries that were compared, and of those that are wrong."""

    compared: int
    wrong: int

    def __str__(self) -> str:
        return f"{self.compared:,} entries of its token maps compared, {self.wrong:,} wrong."


@dataclass(frozen=True)
class LayerCheck:
    """Comparison of one block: its decisions, and its values under the same decisions; None if not compared."""

    layer: int
    compared: int
    flips: int
    wrong: int
    largest_margin: float
    max_abs: float | None = None
    scale: float | None = None
    cosine_min: float | None = None
    finite: bool | None = None


@dataclass(frozen=True, kw_only=True)
class ToleranceEntry:
    """Tolerance, and its reason.

    Attributes:
        name: name of the tolerance.
        max_abs: largest difference of an output.
        cosine_min: smallest cosine of two outputs.
        relative: largest norm of a difference, as a share of that of the reference; None for any.
        near_tie: largest margin of a tie.
        strays: share of the decisions that may be flips without being ties.
        reason: where the numbers come from.
    """

    name: str
    max_abs: float
    cosine_min: float
    relative: float | None = None
    near_tie: float
    strays: float = 0.0
    reason: str


@dataclass(frozen=True)
class InFp32:
    """Comparison of a copy of the file that computes in FP32, with its error as a multiple of what rounding explains.

    Attributes:
        max_abs: largest difference; None if not finite.
        allowed: largest difference allowed.
        first_bad_layer: the first wrong block; None if there is none.
        wrong: wrong decisions.
        excess: error of the outputs as a multiple of what rounding explains.
        excess_by_layer: excess of the blocks.
        excess_allowed: largest excess allowed.
    """

    max_abs: float | None
    allowed: float
    first_bad_layer: int | None
    wrong: int
    excess: float | None = None
    excess_by_layer: Mapping[int, float] = field(default_factory=dict)
    excess_allowed: float | None = None


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Comparison of a file with a reference. Fields with a default are absent in reports of early versions.

    Attributes:
        artifact: name of the file.
        reference: what the file was compared with.
        batches: batch sizes run.
        images: number of images.
        inputs: where the images came from.
        output: what the file outputs.
        max_abs: largest difference of an output; None if not finite.
        relative: largest norm of the difference, as a share of the reference's; None if not finite.
        cosine_min: smallest cosine of two output vectors; None if not finite.
        top1_agreement: share of the images with the same best class; None without classes.
        finite: all outputs are finite.
        images_with_flips: images in which any decision differs.
        images_undecided: images whose decisions are not known.
        decisions: the file's decisions against the reference's.
        token_map: check of its token map; None if it has none.
        layers: comparison block by block.
        tolerance: differences that were allowed.
        notes: notes for the reader.
        wrong_constant: what is wrong with the constants of a quantised file.
        in_fp32: comparison of a copy that computes in FP32.
        passed: the file computes what the reference computes.
    """

    artifact: str
    reference: str = EAGER
    batches: tuple[int, ...]
    images: int
    inputs: str
    output: str | None = None
    max_abs: float | None
    relative: float | None = None
    cosine_min: float | None
    top1_agreement: float | None
    finite: bool
    images_with_flips: int
    images_undecided: int = 0
    decisions: DecisionCounts
    token_map: TokenMapCheck | None = None
    layers: tuple[LayerCheck, ...] = ()
    tolerance: ToleranceEntry
    notes: tuple[str, ...] = ()
    wrong_constant: str | None = None
    in_fp32: InFp32 | None = None
    passed: bool

    @property
    def result_word(self) -> str:
        """Result as a word for tables."""
        return "passed" if self.passed else "FAILED"
