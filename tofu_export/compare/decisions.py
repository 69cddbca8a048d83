"""Judge matching decisions: equal, flipped between near equals, or wrong. Numpy only.

A flip is judged by its margin under the reference's own scores: how much more similar the candidate was that the
reference would have taken. Axes: B batch, S sources, T destinations, R removed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["DecisionReport", "Decisions", "judge"]

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Decisions:
    """What one runtime decided in one layer.

    Attributes:
        kept: [B, S-R], sources that stay, ascending.
        matched: [B, R], sources that leave.
        target: [B, R], destination of each; None where nothing merges.
    """

    kept: Ints
    matched: Ints
    target: Ints | None

    @classmethod
    def read(cls, found: Mapping[str, Ints], batch: int, sources: int) -> Decisions:
        """Decisions as a file states them, in one of the forms that `graph_patterns.canonical` lists.

        `kept` may be missing if none stays. Without `matched`, what `assigned` gives a destination leaves, or else what
        is not kept; `nearest` is the destination of every source, and `kept` is in any order beside it. Rows of unequal
        length, which no file has a reason for, come back empty: a fault.
        """
        kept = found.get("kept", np.empty((batch, 0), dtype=np.int64))
        if "nearest" in found:
            kept = np.sort(kept, axis=1)
            matched = _stacked([np.setdiff1d(np.arange(sources), row) for row in kept])
            return cls(kept, matched, np.take_along_axis(found["nearest"], matched, axis=1))
        if "matched" in found:
            return cls(kept, found["matched"], found.get("target"))
        if "assigned" in found:
            assigned = found["assigned"]
            matched = _stacked([np.flatnonzero(row >= 0) for row in assigned])
            return cls(kept, matched, np.take_along_axis(assigned, matched, axis=1))
        return cls(kept, _stacked([np.setdiff1d(np.arange(sources), row) for row in kept]), None)

    def fault(self, sources: int, destinations: int) -> str | None:
        """What makes these decisions impossible, None if they are a valid matching."""
        both = np.sort(np.concatenate([self.kept, self.matched], axis=1), axis=1)
        if both.shape[1] != sources or not (both == np.arange(sources)).all():
            return "kept and matched sources are not a partition of the sources"
        if (np.diff(self.kept, axis=1) < 0).any():
            return "kept sources are not in ascending order"
        if self.target is not None and not ((self.target >= 0) & (self.target < destinations)).all():
            return "a target is not a destination"
        return None


@dataclass(frozen=True)
class DecisionReport:
    """Decisions of one runtime against the reference, over one or more layers and batches.

    Attributes:
        layers: indices of the layers compared.
        compared: decisions compared: one per removed source, and one more for its destination where it merges.
        flips: decisions that differ.
        near_tie_flips: those between candidates that the precision cannot tell apart.
        wrong: the others, and impossible ones.
        largest_margin: largest margin of any flip, in cosine similarity.
        faults: what was impossible, by layer.
    """

    layers: tuple[int, ...] = ()
    compared: int = 0
    flips: int = 0
    near_tie_flips: int = 0
    wrong: int = 0
    largest_margin: float = 0.0
    faults: tuple[str, ...] = ()

    def right(self, strays: float) -> bool:
        """True if no decision is wrong, or, if all are possible ones, no more than a share of them."""
        return not self.wrong or (not self.faults and self.wrong <= strays * self.compared)

    def __add__(self, other: DecisionReport) -> DecisionReport:
        return DecisionReport(
            tuple(sorted({*self.layers, *other.layers})),
            self.compared + other.compared,
            self.flips + other.flips,
            self.near_tie_flips + other.near_tie_flips,
            self.wrong + other.wrong,
            max(self.largest_margin, other.largest_margin),
            self.faults + other.faults,
        )


def judge(
    layer: int, got: Decisions, scores: NDArray[np.float32], reference: Decisions, near_tie: float
) -> DecisionReport:
    """Compare `got` with `reference` in one layer.

    Args:
        layer: index of the block.
        got: the decisions to judge.
        scores: [B, S, T], the reference's similarities.
        reference: what the reference decided from them.
        near_tie: largest margin, in cosine similarity, that counts as a tie.
    """
    compared = reference.matched.size * (1 if reference.target is None else 2)
    if fault := got.fault(scores.shape[1], scores.shape[2]) or _other_shape(got, reference):
        faults = (f"layer {layer}: {fault}",)
        return DecisionReport((layer,), compared, compared, 0, compared, faults=faults)
    best = scores.max(axis=2).astype(np.float64)
    margins: list[float] = []
    for image in range(len(scores)):
        chosen, expected = set(got.matched[image].tolist()), set(reference.matched[image].tolist())
        passed_over = max((best[image, source] for source in expected - chosen), default=0.0)
        margins += [passed_over - best[image, source] for source in chosen - expected]
    if got.target is not None:
        rows = np.arange(len(scores))[:, None]
        lost = best[rows, got.matched] - scores[rows, got.matched, got.target]
        # A target of equal similarity is no flip only if it is the one that the reference takes: the lowest.
        differs = got.target != scores.argmax(axis=2)[rows, got.matched]
        margins += lost[differs].tolist()
    wrong = sum(1 for margin in margins if margin > near_tie)
    return DecisionReport(
        (layer,), compared, len(margins), len(margins) - wrong, wrong, float(max((0.0, *margins))), ()
    )


def _stacked(rows: Sequence[Ints]) -> Ints:
    return np.stack(rows) if len({len(row) for row in rows}) == 1 else np.empty((len(rows), 0), dtype=np.int64)


def _other_shape(got: Decisions, reference: Decisions) -> str | None:
    if got.matched.shape != reference.matched.shape:
        return f"{got.matched.shape[-1]} sources leave, expected {reference.matched.shape[-1]}"
    if got.target is not None and got.target.shape != got.matched.shape:
        return f"{got.target.shape[-1]} targets for {got.matched.shape[-1]} sources"
    return None
