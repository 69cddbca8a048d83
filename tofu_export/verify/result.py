"""What a verification found: outputs, decisions, layers; whether it passes; and what failed by how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tofu_export.compare import OutputComparison, Tolerance
from tofu_export.decisions import DecisionReport
from tofu_export.errors import VerificationError

__all__ = ["EAGER", "MOST_UNDECIDED", "Evidence", "LayerResult", "VerificationResult", "worst"]

EAGER = "the eager model"
"""What a file is compared with where nothing else is said."""

MOST_UNDECIDED = 0.25
"""Share of the images whose decisions may be unknown. An engine is watched in a copy of its own, built from the same
graph; where kernels of the two round differently, near equals may fall otherwise. What is wrong with an engine itself
is wrong for more than a few images."""

Array = NDArray[Any]


@dataclass(frozen=True)
class LayerResult:
    """One block of the file against the same block of the reference.

    Attributes:
        layer: index of the block.
        decisions: its decisions; nothing compared where it removes no token.
        values: what the block gives, under the decisions of the file; None where that was not asked for or the file
            does not tell which value it is.
    """

    layer: int
    decisions: DecisionReport = field(default_factory=DecisionReport)
    values: OutputComparison | None = None

    def to_dict(self) -> dict[str, Any]:
        """As in report.json (`verification[].layers`)."""
        found, values = self.decisions, self.values
        finite = values is not None and values.finite
        return {
            "layer": self.layer,
            "compared": found.compared,
            "flips": found.flips,
            "wrong": found.wrong,
            "largest_margin": found.largest_margin,
            "max_abs": values.max_abs if values is not None and finite else None,
            "scale": values.scale if values is not None and finite else None,
            "cosine_min": values.cosine_min if values is not None and finite else None,
            "finite": None if values is None else values.finite,
        }


@dataclass(frozen=True)
class Evidence:
    """One batch of a comparison, to look at it closer elsewhere.

    Attributes:
        feeds: what the file was given, by name.
        got: what it gave, by name.
        expected: what the reference gives instead, under the decisions of the file, by the file's names. Also what its
            blocks give, where layers were compared.
    """

    feeds: Mapping[str, Array]
    got: Mapping[str, Array]
    expected: Mapping[str, Array]


@dataclass(frozen=True)
class VerificationResult:
    """What was compared, how it differs, and whether it passes.

    Attributes:
        artifact: name of the file.
        batches: batch sizes run.
        inputs: where the images came from.
        output: what the file gives: an `OutputKind`, or the names of its outputs.
        outputs: its real values against the reference's under the file's decisions; of several the worst.
        mapped: integers compared, which are entries of the token map; None without any.
        mismapped: those that differ.
        images_with_flips: images in which any decision differs.
        decisions: the file's decisions against the reference's.
        tolerance: what was allowed.
        notes: what a reader must know, such as a capped batch.
        layers: the same block by block.
        reference: what the file was compared with.
        evidence: the batch that differs most.
        undecided: images of which only the decisions of a copy are known, which gives other outputs: not compared.
        in_fp32: the same of a copy that computes in FP32; None for files that are in FP32, or foreign ones.
        contradictions: what the file's metadata say that is not so.
    """

    artifact: str
    batches: tuple[int, ...]
    inputs: str
    output: str
    outputs: OutputComparison
    mapped: int | None
    mismapped: int
    images_with_flips: int
    decisions: DecisionReport
    tolerance: Tolerance
    notes: tuple[str, ...] = ()
    layers: tuple[LayerResult, ...] = ()
    reference: str = EAGER
    evidence: Evidence | None = field(default=None, repr=False, compare=False)
    undecided: int = 0
    in_fp32: VerificationResult | None = None
    contradictions: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """True if outputs are within tolerance, no decision is wrong, token map and metadata are as they should be.

        Of nearly all images, that is: `MOST_UNDECIDED`.
        """
        mapped = self.mapped is None or (self.mapped > 0 and self.mismapped == 0)
        right = self.outputs.within(self.tolerance) and self.decisions.wrong == 0 and mapped and self._followed
        right = right and not self.contradictions
        return right and (self.in_fp32 is None or (self.in_fp32.passed and self.in_fp32.first_bad_layer is None))

    @property
    def _followed(self) -> bool:
        return self.undecided <= MOST_UNDECIDED * (self.outputs.images + self.undecided)

    @property
    def first_bad_layer(self) -> int | None:
        """The first block whose values or decisions are not as they should be; None where none is known to be."""
        return next(
            (
                entry.layer
                for entry in self.layers
                if entry.decisions.wrong or (entry.values is not None and not entry.values.within(self.tolerance))
            ),
            None,
        )

    def to_dict(self) -> dict[str, Any]:
        """As in report.json (`verification`)."""
        outputs = self.outputs
        return {
            "artifact": self.artifact,
            "reference": self.reference,
            "batches": list(self.batches),
            "images": outputs.images,
            "inputs": self.inputs,
            "output": self.output,
            "max_abs": outputs.max_abs if outputs.finite else None,
            "cosine_min": outputs.cosine_min if outputs.finite else None,
            "top1_agreement": outputs.top1_agreement,
            "finite": outputs.finite,
            "images_with_flips": self.images_with_flips,
            "images_undecided": self.undecided,
            "decisions": self.decisions.to_dict(),
            "token_map": None if self.mapped is None else {"compared": self.mapped, "wrong": self.mismapped},
            "layers": [entry.to_dict() for entry in self.layers],
            "tolerance": {
                "name": self.tolerance.name,
                "max_abs": self.tolerance.allowed(outputs.scale),
                "cosine_min": self.tolerance.cosine_min,
                "near_tie": self.tolerance.near_tie,
                "reason": self.tolerance.reason,
            },
            "notes": list(self.notes),
            "in_fp32": None if self.in_fp32 is None else _summary(self.in_fp32),
            "passed": self.passed,
        }

    def __str__(self) -> str:
        outputs, decisions = self.outputs, self.decisions
        error = f"largest error {outputs.max_abs:.1e}" if outputs.finite else "not finite"
        return (
            f"{'verified' if self.passed else 'FAILED'} at batch {', '.join(map(str, self.batches))}: {error}, "
            f"{decisions.compared} decisions, {decisions.near_tie_flips} near ties, {decisions.wrong} wrong"
        )

    def failure(self, advice: str = "") -> VerificationError:
        """The error that says what failed and by how much.

        Args:
            advice: what to do about it, a sentence without its full stop.
        """
        parts = []
        outputs, tolerance = self.outputs, self.tolerance
        if not outputs.finite:
            parts.append("its output has NaN or infinity")
        elif not outputs.within(tolerance):
            parts.append(
                f"{self.output} differ by {outputs.max_abs:.3g} "
                f"(allowed {tolerance.allowed(outputs.scale):.3g}), "
                f"cosine {outputs.cosine_min:.6f} (at least {tolerance.cosine_min})"
            )
        if self.decisions.wrong:
            parts.append(
                f"{self.decisions.wrong} of {self.decisions.compared} matching decisions are wrong, not near ties "
                f"(largest margin {self.decisions.largest_margin:.3g}, a tie is below {tolerance.near_tie:.3g})"
            )
            parts.extend(self.decisions.faults[:3])
        if not self._followed:
            parts.append(
                f"for {self.undecided} of {self.outputs.images + self.undecided} images its outputs are not those of "
                f"the copy that gives out its decisions (at most {MOST_UNDECIDED:.0%} may be)"
            )
        if self.mismapped:
            parts.append(f"{self.mismapped} of {self.mapped} entries of the token map are not what the decisions make")
        if self.first_bad_layer is not None:
            parts.append(f"the first block that differs is {self.first_bad_layer}")
        if not parts and self.contradictions:
            return VerificationError(f"{self.artifact}: {'; '.join(self.contradictions)}")
        parts.extend(self.contradictions)
        if not parts and self.in_fp32 is not None:
            found = self.in_fp32
            where = "" if found.first_bad_layer is None else f", and block {found.first_bad_layer} is the first to"
            parts.append(
                f"computed in FP32, where rounding hides nothing, {found.output} differ by {found.outputs.max_abs:.3g} "
                f"(allowed {found.tolerance.allowed(found.outputs.scale):.3g}){where}"
            )
        return VerificationError(
            f"{self.artifact} does not compute what {self.reference} computes: {'; '.join(parts)}"
            + (f". {advice}" if advice else "")
        )


def _summary(found: VerificationResult) -> dict[str, Any]:
    """A comparison in FP32, in short."""
    outputs = found.outputs
    return {
        "max_abs": outputs.max_abs if outputs.finite else None,
        "allowed": found.tolerance.allowed(outputs.scale),
        "first_bad_layer": found.first_bad_layer,
        "wrong": found.decisions.wrong,
    }


def worst(comparisons: Sequence[OutputComparison], tolerance: Tolerance) -> OutputComparison:
    """The comparison that is farthest from being within tolerance: if it passes, all do."""

    def badness(entry: OutputComparison) -> tuple[bool, float]:
        allowed = tolerance.allowed(entry.scale)
        return not entry.within(tolerance), entry.max_abs / allowed if entry.finite and allowed else np.inf

    return max(comparisons, key=badness)
