"""Judge matching decisions: equal, flipped between near ties, or wrong. Numpy only.

A flip is judged by its margin under the reference's own scores: how much more similar the candidate was that the
reference would have taken. Axes: B batch, S sources, T destinations, R removed; `tofu_export.options.Roles` defines
which tokens these are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["DecisionReport", "Decisions", "Scores", "agreeing", "judge"]

Ints = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Scores:
    """Scores that a reference decides by, as in `patch.matching.Scores`.

    Attributes:
        pairs: [B, S, T] cosine similarity, [B, S, S] in a pool; None if all that leave join one token.
        order: [B, S], by which sources are ranked, the largest leaving first; None for the maximum of each source's
            `pairs`.
        threshold: cosine at which `order` is discontinuous in each pair; None if it is continuous.
    """

    pairs: Floats | None
    order: Floats | None = None
    threshold: float | None = None

    def ranked(self) -> NDArray[np.float64]:
        """Return the values that sources are ranked by, [B, S]."""
        if self.order is not None:
            return self.order.astype(np.float64)
        assert self.pairs is not None  # one of both is given
        best: NDArray[np.float64] = self.pairs.max(axis=2).astype(np.float64)
        return best

    def slack(self, near_tie: float) -> NDArray[np.float64]:
        """Return how far `order` moves, [B, S], if pairs within `near_tie` of the threshold cross it."""
        ranked = self.ranked()
        if self.threshold is None or self.pairs is None:
            return np.zeros_like(ranked)
        near: NDArray[np.float64] = (np.abs(self.pairs - self.threshold) < near_tie).mean(axis=2)
        return near * abs(self.threshold)


@dataclass(frozen=True)
class Decisions:
    """Decisions of one runtime in one layer.

    Attributes:
        kept: [B, S-R], sources that stay, ascending.
        matched: [B, R], sources that leave.
        target: [B, R], what each matched source joins, a destination, or in a pool one of `kept`; None if none merges.
        partners: [B, K], sources of a pool that may be joined; None without a pool, or if nothing merges.
    """

    kept: Ints
    matched: Ints
    target: Ints | None
    partners: Ints | None = None

    @classmethod
    def read(cls, found: Mapping[str, Ints], batch: int, sources: int) -> Decisions:
        """Read decisions of a file, in one of the forms that `graph_patterns.canonical` lists.

        `kept` may be missing if no source stays. Without `matched`, the sources that `assigned` gives a destination
        leave, or else those not in `kept`; `nearest` is the destination of every source, and `kept` beside it is in any
        order. Rows of unequal length, which no correct file has, are returned empty: a fault.
        """
        kept = found.get("kept", np.empty((batch, 0), dtype=np.int64))
        if "nearest" in found:
            kept = np.sort(kept, axis=1)
            matched = _stacked([np.setdiff1d(np.arange(sources), row) for row in kept])
            return cls(kept, matched, np.take_along_axis(found["nearest"], matched, axis=1))
        if "matched" in found:
            return cls(kept, found["matched"], found.get("target"), found.get("partners"))
        if "assigned" in found:
            assigned = found["assigned"]
            matched = _stacked([np.flatnonzero(row >= 0) for row in assigned])
            return cls(kept, matched, np.take_along_axis(assigned, matched, axis=1))
        return cls(kept, _stacked([np.setdiff1d(np.arange(sources), row) for row in kept]), None)

    def fault(self, sources: int, joinable: int) -> str | None:
        """Return why these decisions are impossible, None if they are a valid matching.

        Args:
            sources: number of sources.
            joinable: number of tokens that can be joined.
        """
        both = np.sort(np.concatenate([self.kept, self.matched], axis=1), axis=1)
        if both.shape[1] != sources or not (both == np.arange(sources)).all():
            return "kept and matched sources are not a partition of the sources"
        if (np.diff(self.kept, axis=1) < 0).any():
            return "kept sources are not in ascending order"
        if self.target is not None and not ((self.target >= 0) & (self.target < joinable)).all():
            return "a target is not a destination"
        if self.partners is None or self.target is None:
            return None
        if any(not np.isin(row, kept).all() for row, kept in zip(self.partners, self.kept, strict=True)):
            return "a partner does not stay"
        if any(not np.isin(row, may).all() for row, may in zip(self.joined, self.partners, strict=True)):
            return "a target is not a partner"
        return None

    @property
    def joined(self) -> Ints:
        """Source that each of `matched` joins in a pool, [B, R]."""
        assert self.target is not None  # asked where sources merge
        return np.take_along_axis(self.kept, self.target, axis=1)


@dataclass(frozen=True)
class DecisionReport:
    """Decisions of one runtime against the reference, over one or more layers and batches.

    Attributes:
        layers: indices of the layers compared.
        compared: decisions compared: one per removed source, and one more for its destination if it merges.
        flips: decisions that differ.
        near_tie_flips: flips between candidates that the precision cannot distinguish.
        wrong: all other flips, and impossible decisions.
        largest_margin: largest margin of any flip, in cosine similarity.
        faults: impossible decisions, by layer.
    """

    layers: tuple[int, ...] = ()
    compared: int = 0
    flips: int = 0
    near_tie_flips: int = 0
    wrong: int = 0
    largest_margin: float = 0.0
    faults: tuple[str, ...] = ()

    def right(self, strays: float) -> bool:
        """True if no decision is wrong, or if all are possible and at most the share `strays` is wrong."""
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


def judge(layer: int, got: Decisions, scores: Scores, reference: Decisions, near_tie: float) -> DecisionReport:
    """Compare `got` with `reference` in one layer.

    Args:
        layer: index of the block.
        got: the decisions to judge.
        scores: scores that the reference decides by.
        reference: decisions of the reference.
        near_tie: largest margin, in cosine similarity, that counts as a tie.
    """
    compared = reference.matched.size
    if reference.target is not None:
        compared += reference.matched.size if scores.pairs is not None else 0
        compared += 0 if reference.partners is None else reference.partners.size
    ranked = scores.ranked()
    pooled = reference.partners is not None
    joinable = reference.kept.shape[1] if pooled or scores.pairs is None else scores.pairs.shape[2]
    if fault := got.fault(ranked.shape[1], joinable) or _other_shape(got, reference):
        faults = (f"layer {layer}: {fault}",)
        return DecisionReport((layer,), compared, compared, 0, compared, faults=faults)
    if pooled:
        margins = _roles_taken(got, reference, ranked, scores.slack(near_tie))
    else:
        margins = _passed_over(got, reference, ranked)
    if got.target is not None:
        margins += _targets_lost(got, scores)
    wrong = sum(1 for margin in margins if margin > near_tie)
    return DecisionReport(
        (layer,), compared, len(margins), len(margins) - wrong, wrong, float(max((0.0, *margins))), ()
    )


def agreeing(got: Decisions, reference: Decisions, scores: Scores) -> NDArray[np.bool_]:
    """Return the images in which `got`, a valid matching, equals the reference, [B]."""
    same: NDArray[np.bool_] = (np.sort(got.matched, 1) == np.sort(reference.matched, 1)).all(axis=1)
    if got.partners is not None and reference.partners is not None:
        same &= (np.sort(got.partners, 1) == np.sort(reference.partners, 1)).all(axis=1)
    if got.target is not None:
        same &= ~_differing(got, scores)[0].any(axis=1)
    return same


def _passed_over(got: Decisions, reference: Decisions, ranked: NDArray[np.float64]) -> list[float]:
    """Return the margin of each source that wrongly leaves: how far it is below the best that should have left."""
    margins: list[float] = []
    for image, score in enumerate(ranked):
        chosen, expected = set(got.matched[image].tolist()), set(reference.matched[image].tolist())
        passed_over = max((score[source] for source in expected - chosen), default=0.0)
        margins += [passed_over - score[source] for source in chosen - expected]
    return margins


def _roles_taken(
    got: Decisions, reference: Decisions, ranked: NDArray[np.float64], slack: NDArray[np.float64]
) -> list[float]:
    """Return the margin of each source of a pool in a wrong role, of leaving, being joinable, or being protected.

    The margin is the distance of its score from the nearest score whose rank has that role. If no score moves by more
    than d, no rank moves by more than 2 d, so a right runtime stays below that whatever the roles of the ranks are.
    """
    margins: list[float] = []
    for image, score in enumerate(ranked):
        mine, theirs = (_role_of(each, image, score.size, got.partners is not None) for each in (got, reference))
        apart = []
        for source in np.flatnonzero(mine != theirs):
            same = np.flatnonzero(theirs == mine[source])
            gaps = np.abs(score[same] - score[source]) - slack[image, same] - slack[image, source]
            apart.append(max(0.0, float(gaps.min())))
        # Each role that went to another source is one flip, though two sources have another role.
        flips = np.count_nonzero((mine != theirs) & (theirs != 0))
        margins += sorted(apart, reverse=True)[:flips]
    return margins


def _role_of(decisions: Decisions, image: int, sources: int, with_partners: bool) -> Ints:
    """Return the role of each source in one image: 0 stays, 1 leaves, 2 may be joined."""
    roles = np.zeros(sources, dtype=np.int64)
    if with_partners and decisions.partners is not None:
        roles[decisions.partners[image]] = 2
    roles[decisions.matched[image]] = 1
    return roles


def _targets_lost(got: Decisions, scores: Scores) -> list[float]:
    """Return the margin of each target other than the reference's: how much more similar the reference's is."""
    differs, lost = _differing(got, scores)
    return [float(margin) for margin in lost[differs]]


def _differing(got: Decisions, scores: Scores) -> tuple[NDArray[np.bool_], Floats]:
    """Return which targets [B, R] are not the first of the most similar tokens that may be joined, and by how much."""
    assert got.target is not None  # asked where sources merge
    if scores.pairs is None:  # there is one partner
        return np.zeros(got.target.shape, dtype=bool), np.zeros(got.target.shape)
    rows = np.arange(len(got.matched))[:, None]
    if got.partners is None:
        may, taken = scores.pairs[rows, got.matched], got.target
        first = may.argmax(axis=2)
    else:
        may, taken = scores.pairs[rows[:, :, None], got.matched[:, :, None], got.partners[:, None, :]], got.joined
        first = np.take_along_axis(got.partners, may.argmax(axis=2), axis=1)
    lost: Floats = may.max(axis=2).astype(np.float64) - scores.pairs[rows, got.matched, taken]
    return taken != first, lost


def _stacked(rows: Sequence[Ints]) -> Ints:
    return np.stack(rows) if len({len(row) for row in rows}) == 1 else np.empty((len(rows), 0), dtype=np.int64)


def _other_shape(got: Decisions, reference: Decisions) -> str | None:
    if got.matched.shape != reference.matched.shape:
        return f"{got.matched.shape[-1]} sources leave, expected {reference.matched.shape[-1]}"
    if got.target is not None and got.target.shape != got.matched.shape:
        return f"{got.target.shape[-1]} targets for {got.matched.shape[-1]} sources"
    if got.partners is not None and reference.partners is not None and got.partners.shape != reference.partners.shape:
        return f"{got.partners.shape[-1]} partners, expected {reference.partners.shape[-1]}"
    return None
