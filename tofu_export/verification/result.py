"""Results of a verification: outputs, decisions, layers; whether it passes; what failed and by how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tofu_export.compare.decisions import DecisionReport
from tofu_export.compare.outputs import OutputComparison, Tolerance
from tofu_export.errors import VerificationError
from tofu_export.report.verification import (
    EAGER,
    DecisionCounts,
    InFp32,
    LayerCheck,
    TokenMapCheck,
    ToleranceEntry,
    Verification,
)
from tofu_export.system.typed_json import JsonObject, to_object
from tofu_export.verification.noise import MOST_EXCESS

__all__ = ["MOST_UNDECIDED", "Evidence", "LayerResult", "VerificationResult", "worst"]

MOST_UNDECIDED = 0.25
"""Largest share of images whose decisions may be unknown. An engine is watched in a separate copy, built from the same
graph; if kernels of the two round differently, near ties may be decided otherwise. A mistake in the engine itself
affects more than a few images."""

Array = NDArray[Any]


@dataclass(frozen=True)
class LayerResult:
    """Comparison of one block of the file with the same block of the reference.

    Attributes:
        layer: index of the block.
        decisions: its decisions; nothing is compared if it removes no token.
        values: output of the block, under the decisions of the file; None if not asked for or not found in the
            file.
        excess: error of `values` as a multiple of what rounding explains (`verify.noise`); None if not measured.
    """

    layer: int
    decisions: DecisionReport = field(default_factory=DecisionReport)
    values: OutputComparison | None = None
    excess: float | None = None

    def right(self, tolerance: Tolerance) -> bool:
        """True if nothing is known to be wrong with the block.

        Where it was measured what rounding explains, that decides in the place of the largest error: trained models
        have tokens whose rounding grows far beyond that of all others.
        """
        values = self.values
        if values is not None and self.excess is not None:
            near = values.finite and values.images > 0 and values.cosine_min >= tolerance.cosine_min
        else:
            near = values is None or values.within(tolerance)
        return near and self.decisions.right(tolerance.strays) and _explained(self.excess)

    def entry(self) -> LayerCheck:
        """Return the record of this layer in report.json (`verification[].layers`)."""
        found, values = self.decisions, self.values
        counts = (self.layer, found.compared, found.flips, found.wrong, found.largest_margin)
        if values is None:
            return LayerCheck(*counts)
        if not values.finite:
            return LayerCheck(*counts, finite=False)
        return LayerCheck(*counts, values.max_abs, values.scale, values.cosine_min, finite=True)


@dataclass(frozen=True)
class Evidence:
    """One batch of a comparison, kept for closer inspection.

    Attributes:
        feeds: inputs of the file, by name.
        got: outputs of the file, by name.
        expected: outputs of the reference, under the decisions of the file, by the file's names. Also outputs of its
            blocks, if layers were compared.
    """

    feeds: Mapping[str, Array]
    got: Mapping[str, Array]
    expected: Mapping[str, Array]


@dataclass(frozen=True)
class VerificationResult:
    """Result of one comparison: what was compared, how it differs, whether it passes.

    Attributes:
        artifact: name of the file.
        batches: batch sizes run.
        inputs: where the images came from.
        output: what the file outputs: an `OutputKind`, or the names of its outputs.
        outputs: its real-valued outputs against the reference's under the file's decisions; of several the worst.
        mapped: integers compared, entries of the token map and counts; None without any.
        mismapped: number of these integers that differ.
        images_with_flips: images in which any decision differs.
        decisions: the file's decisions against the reference's.
        tolerance: what was allowed.
        notes: notes for the reader, such as a capped batch.
        layers: comparison block by block.
        reference: what the file was compared with.
        evidence: the batch that differs most.
        undecided: images that are not compared, since only a copy with other outputs tells its decisions.
        in_fp32: result of a copy that computes in FP32, with what rounding explains; None for foreign files, or if
            another tolerance was asked for.
        excess: error of the outputs as a multiple of what rounding explains; None if not measured.
        wrong_constant: what is wrong with the constants of an int8 file; None if nothing is known to be.
        contradictions: statements of the file's metadata that are wrong.
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
    excess: float | None = None
    wrong_constant: str | None = None
    contradictions: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """True if outputs and decisions are within tolerance, and token map and metadata are correct.

        Up to a share of `MOST_UNDECIDED`, images may be left out of this.
        """
        mapped = self.mapped is None or (self.mapped > 0 and self.mismapped == 0)
        decided = self.decisions.right(self.tolerance.strays)
        right = self.outputs.within(self.tolerance) and decided and mapped and self._followed
        inside = self.in_fp32 is None or (self.in_fp32.passed and self.in_fp32.first_bad_layer is None)
        right = right and not self.contradictions
        return right and inside and _explained(self.excess) and self.wrong_constant is None

    def noted(self, note: str) -> VerificationResult:
        """Return the result with one more note."""
        return replace(self, notes=(*self.notes, note))

    def with_strays_noted(self) -> VerificationResult:
        """Return the result with a note on decisions that the tolerance accepts although they are not ties."""
        found, allowed = self.decisions, self.tolerance
        if not self.passed or not found.wrong:
            return self
        return self.noted(
            f"{found.wrong} of {found.compared} decisions are between tokens further apart than a tie, by up to "
            f"{found.largest_margin:.2g}: the rounding of {allowed.name} moves some tokens that far, and up to "
            f"{allowed.strays:.0%} may be"
        )

    @property
    def _followed(self) -> bool:
        return self.undecided <= MOST_UNDECIDED * (self.outputs.images + self.undecided)

    @property
    def first_bad_layer(self) -> int | None:
        """First block whose values or decisions are wrong; None if none is known to be."""
        return next((entry.layer for entry in self.layers if not entry.right(self.tolerance)), None)

    @property
    def _beyond_rounding(self) -> str:
        """Text on how far outputs and blocks are off, of a copy in FP32."""
        bad = next((entry for entry in self.layers if not entry.right(self.tolerance)), None)
        times = "" if self.excess is None else f", {self.excess:.2g} times what rounding explains"
        parts = [f"{self.output} differ by {self.outputs.max_abs:.3g}{times} (allowed {MOST_EXCESS:g} times)"]
        if self.decisions.wrong:
            parts.append(f"{self.decisions.wrong} of {self.decisions.compared} matching decisions are wrong")
        if bad is not None:
            off = "" if bad.excess is None else f", by {bad.excess:.2g} times"
            parts.append(f"block {bad.layer} is the first to differ{off}")
        return ", and ".join(parts)

    def entry(self) -> Verification:
        """Return the comparison as report.json has it (`verification`)."""
        outputs, found, allowed = self.outputs, self.decisions, self.tolerance
        finite = outputs.finite
        return Verification(
            artifact=self.artifact,
            reference=self.reference,
            batches=self.batches,
            images=outputs.images,
            inputs=self.inputs,
            output=self.output,
            max_abs=outputs.max_abs if finite else None,
            relative=outputs.relative if finite else None,
            cosine_min=outputs.cosine_min if finite else None,
            top1_agreement=outputs.top1_agreement,
            finite=finite,
            images_with_flips=self.images_with_flips,
            images_undecided=self.undecided,
            decisions=DecisionCounts(
                len(found.layers), found.compared, found.flips, found.near_tie_flips, found.wrong,
                found.largest_margin, found.faults,
            ),
            token_map=None if self.mapped is None else TokenMapCheck(self.mapped, self.mismapped),
            layers=tuple(entry.entry() for entry in self.layers),
            tolerance=ToleranceEntry(
                name=allowed.name,
                max_abs=allowed.allowed(outputs.scale),
                cosine_min=allowed.cosine_min,
                relative=allowed.relative,
                near_tie=allowed.near_tie,
                strays=allowed.strays,
                reason=allowed.reason,
            ),
            notes=self.notes,
            wrong_constant=self.wrong_constant,
            in_fp32=None if self.in_fp32 is None else _summary(self.in_fp32),
            passed=self.passed,
        )  # fmt: skip

    def to_dict(self) -> JsonObject:
        """Return the comparison as plain JSON values for report.json (`verification`)."""
        return to_object(self.entry())

    def __str__(self) -> str:
        outputs, decisions = self.outputs, self.decisions
        error = f"largest error {outputs.max_abs:.1e}" if outputs.finite else "not finite"
        return (
            f"{'verified' if self.passed else 'FAILED'} at batch {', '.join(map(str, self.batches))}: {error}, "
            f"{decisions.compared} decisions, {decisions.near_tie_flips} near ties, {decisions.wrong} wrong"
        )

    def failure(self, advice: str = "") -> VerificationError:
        """Return the error that says what failed and by how much.

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
                + (f", {outputs.longer:.2%} longer or shorter" if outputs.longer > tolerance.longer else "")
                + ("" if tolerance.relative is None else f", norm of the difference {outputs.relative:.3g} of that of ")
                + ("" if tolerance.relative is None else f"{self.output} (allowed {tolerance.relative:.3g})")
            )
        if not self.decisions.right(tolerance.strays):
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
            known = self.decisions.compared
            what = "(token map, counts) are not what the decisions make" if known else f"are not {self.reference}'s"
            parts.append(f"{self.mismapped} of {self.mapped} integers {what}")
        if self.first_bad_layer is not None:
            parts.append(f"the first block that differs is {self.first_bad_layer}")
        if self.wrong_constant is not None:
            parts.append(self.wrong_constant)
        if not parts and self.contradictions:
            return VerificationError(f"{self.artifact}: {'; '.join(self.contradictions)}")
        parts.extend(self.contradictions)
        if not parts and self.in_fp32 is not None:
            parts.append(f"computed in FP32, where rounding hides nothing, {self.in_fp32._beyond_rounding}")
        return VerificationError(
            f"{self.artifact} does not compute what {self.reference} computes: {'; '.join(parts)}"
            + (f". {advice}" if advice else "")
        )


def _explained(excess: float | None) -> bool:
    """True if rounding explains a difference, or if it was not measured."""
    return excess is None or excess <= MOST_EXCESS


def _summary(found: VerificationResult) -> InFp32:
    """Summarise a comparison in FP32."""
    outputs = found.outputs
    return InFp32(
        max_abs=outputs.max_abs if outputs.finite else None,
        allowed=found.tolerance.allowed(outputs.scale),
        first_bad_layer=found.first_bad_layer,
        wrong=found.decisions.wrong,
        excess=found.excess if found.excess is not None and np.isfinite(found.excess) else None,
        excess_by_layer={entry.layer: entry.excess for entry in found.layers if entry.excess is not None},
        excess_allowed=MOST_EXCESS,
    )


def worst(comparisons: Sequence[OutputComparison], tolerance: Tolerance) -> OutputComparison:
    """Return the comparison that is farthest from being within tolerance: if it passes, all do."""

    def badness(entry: OutputComparison) -> tuple[bool, float]:
        allowed = tolerance.allowed(entry.scale)
        return not entry.within(tolerance), entry.max_abs / allowed if entry.finite and allowed else np.inf

    return max(comparisons, key=badness)
