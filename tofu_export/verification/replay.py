"""Replay the matching decisions of a file: find them, judge them, and make the eager model follow them."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tofu_export.compare.decisions import DecisionReport, Decisions, Scores, agreeing, judge
from tofu_export.compare.groups import Reducing, follow_layers, of_patches
from tofu_export.compare.halting import Budgets, judge_halting
from tofu_export.compare.outputs import Tolerance
from tofu_export.errors import VerificationError
from tofu_export.graph_patterns.canonical import DECISIONS, decision_name, is_decision
from tofu_export.graph_patterns.halting import working_name
from tofu_export.patch import matching
from tofu_export.patch.halting import Spending
from tofu_export.patch.matching import Matching
from tofu_export.planning.plan import LayerPlan, Plan

__all__ = ["DecisionNames", "Judge", "Replay", "planned_decisions"]

Array = NDArray[Any]

WORKING = "working"
"""Kind of the value that says which tokens go on after a block (`graph_patterns.halting.working_name`)."""

DecisionNames = Mapping[int, Mapping[str, str]]
"""Names of the values that hold decisions, by layer and kind (`graph_patterns.canonical`, `WORKING`)."""


class Judge:
    """Judge of decisions, layer by layer, that keeps count."""

    def __init__(self, tolerance: Tolerance) -> None:
        self._tolerance = tolerance
        self.by_layer: dict[int, DecisionReport] = {}
        self.flipped_images: set[int] = set()

    @property
    def report(self) -> DecisionReport:
        """Report on all layers together."""
        return sum(self.by_layer.values(), DecisionReport())

    def judge(self, layer: int, got: Decisions, scores: Scores, reference: Decisions) -> bool:
        """Compare `got` with what the reference decides from its `scores`; True if `got` can be followed."""
        report = judge(layer, got, scores, reference, self._tolerance.near_tie)
        self._note(layer, report)
        if report.faults:
            self.flipped_images.update(range(len(reference.matched)))
            return False
        self.flipped_images.update(np.flatnonzero(~agreeing(got, reference, scores)).tolist())
        return True

    def judge_halting(self, layer: int, working: Array, budgets: Budgets) -> bool:
        """Compare which tokens go on after a layer with what the reference's budgets say; True if it can be followed.

        Args:
            layer: index of the block.
            working: [B, N], 1 for tokens that go on, by the file.
            budgets: budgets of the reference.
        """
        report = judge_halting(layer, working, budgets, self._tolerance.near_tie)
        self._note(layer, report)
        differs = budgets.differs(working) if not report.faults else np.ones_like(budgets.before, dtype=bool)
        self.flipped_images.update(np.flatnonzero(differs.any(axis=1)).tolist())
        return not report.faults

    def _note(self, layer: int, report: DecisionReport) -> None:
        self.by_layer[layer] = self.by_layer.get(layer, DecisionReport()) + report


class Replay(Judge):
    """An observer that makes the eager model follow a file's decisions, and judges them on the way.

    Args:
        names: the file's decisions.
        seen: their values, by name.
        tolerance: defines what is a tie.

    Attributes:
        followed: the decisions that the model followed, by layer, with targets.
    """

    def __init__(self, names: DecisionNames, seen: Mapping[str, Array], tolerance: Tolerance) -> None:
        super().__init__(tolerance)
        self._names = names
        self._seen = seen
        self.followed: dict[int, Decisions] = {}

    def decide(self, layer: int, scores: matching.Scores, proposed: Matching) -> Matching:
        """Judge the file's decisions in this layer and return them, or the model's own if they are impossible."""
        partners = None if proposed.partners is None else proposed.partners.numpy()
        own = Decisions(proposed.kept.numpy(), proposed.matched.numpy(), proposed.target.numpy(), partners)
        self.followed[layer] = chosen = self._chosen(layer, scores, own)
        kept, matched, target, partner = (
            None if value is None else torch.from_numpy(value)
            for value in (chosen.kept, chosen.matched, chosen.target, chosen.partners)
        )
        assert kept is not None and matched is not None and target is not None  # followed decisions have targets
        return Matching(kept, matched, target, partner)

    def spend(self, layer: int, proposed: Spending) -> torch.Tensor:
        """Judge which tokens go on in the file after this block, and return budgets with which the same ones do."""
        name = self._names.get(layer, {}).get(WORKING)
        if name is None:
            return proposed.after
        parts = (proposed.before, proposed.channel, proposed.after)
        before, channel, after = (part.squeeze(-1).numpy() for part in parts)
        budgets = Budgets(before, channel, after, proposed.gate)
        working = self._seen[name].reshape(len(before), -1)
        if not self.judge_halting(layer, working, budgets):
            return proposed.after
        return torch.from_numpy(budgets.followed(working)).unsqueeze(-1)

    def _chosen(self, layer: int, scores: matching.Scores, proposed: Decisions) -> Decisions:
        found = {kind: self._seen[name] for kind, name in self._names.get(layer, {}).items() if kind != WORKING}
        if not found:
            return proposed
        got = Decisions.read(found, len(proposed.kept), proposed.kept.shape[1] + proposed.matched.shape[1])
        merges = got.target is not None
        reference = replace(proposed, target=proposed.target if merges else None)
        pairs, order = (None if value is None else value.numpy() for value in (scores.pairs, scores.order))
        if not self.judge(layer, got, Scores(pairs, order, scores.threshold), reference):
            return proposed
        return got if merges else replace(got, target=proposed.target, partners=None)

    def patch_groups(self, plan: Plan, joined: int, images: int) -> NDArray[np.int64]:
        """Return the row of each patch under the decisions that were followed, [B, patches] (`options.PATCH_GROUPS`).

        Computed in numpy, independently of the code that makes the file.

        Args:
            plan: plan of the model.
            joined: tokens that join at its front after the blocks.
            images: batch size B.
        """
        steps = [
            Reducing(layer.layer, layer.method.word, layer.tokens_in, layer.removed, plan.reduction.select)
            for layer in plan.layers
            if layer.removed
        ]
        start = np.tile(np.arange(plan.layers[0].tokens_in), (images, 1))
        states = follow_layers(start, steps, self.followed, plan.prefix_tokens)
        return of_patches(states[-1].groups if states else start, plan.prefix_tokens, joined)


def decided_kinds(plan: Plan, layer: LayerPlan, *, mapped: bool, by_source: bool = False) -> tuple[str, ...]:
    """Return the kinds of decisions of a layer; none if all its sources leave and nothing asks where they go.

    Args:
        plan: the plan.
        layer: its entry for the layer.
        mapped: the row map is followed for an output.
        by_source: targets are stated for each source, not for each one that leaves.
    """
    if not layer.removed:
        return ()
    roles = plan.roles(layer)
    kinds: tuple[str, ...] = ("kept",) if roles.staying else ()
    if mapped or plan.restores_grid or plan.needs_targets(layer):
        kinds += ("assigned",) if by_source else ("matched", "target")
        kinds += ("partners",) if roles.pooled else ()
    return kinds


def planned_decisions(plan: Plan | None, produced: Set[str], file: str, *, mapped: bool) -> DecisionNames:
    """Return the names of the decisions among the values `produced` in a file, by layer and kind.

    There is no `kept` if no source stays. Pruned tokens have a target, too, if it takes over their size, or if the row
    map is followed, for an output (`mapped`) or to restore the grid. A layer with neither decides nothing.

    The decisions of the last layer may be missing altogether: if the head reads class tokens, lowering drops a
    reduction that the output does not depend on. If the output does depend on it, the outputs differ.

    Raises:
        VerificationError: a layer's decisions are not in the file, or there are some that are not in the plan.
    """
    names: dict[int, dict[str, str]] = {}
    if plan is not None:
        for layer in plan.layers:
            by_source = decision_name(layer.layer, "assigned") in produced
            if kinds := decided_kinds(plan, layer, mapped=mapped, by_source=by_source):
                names[layer.layer] = {kind: decision_name(layer.layer, kind) for kind in kinds}
        if plan.reduction.select.halts:
            for layer in plan.layers[:-1]:
                names.setdefault(layer.layer, {})[WORKING] = working_name(layer.layer)
        last = len(plan.layers) - 1
        if produced.isdisjoint(decision_name(last, kind) for kind in DECISIONS):
            names.pop(last, None)
    for layer_index, kinds_of in names.items():
        for name in kinds_of.values():
            if name not in produced:
                raise VerificationError(
                    f"{file}: layer {layer_index} has no value {name}, decisions cannot be compared"
                )
    expected = {name for kinds_of in names.values() for name in kinds_of.values()}
    if unexpected := sorted(name for name in produced - expected if is_decision(name)):
        raise VerificationError(f"{file} decides {unexpected[0]}, which the plan knows nothing of")
    return names
