"""Follow decisions through the layers: which original tokens share a token, and which are pruned. Numpy only.

Axes: B batch, N0 tokens that entered the first block, prefix included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tofu_export.compare.decisions import Decisions
from tofu_export.errors import VerificationError
from tofu_export.options import Roles, Selection

__all__ = ["PRUNED", "GroupState", "Reducing", "follow_groups", "follow_layers", "from_patches", "of_patches"]

PRUNED = -1
"""Marks a token without a row: it was pruned, alone or with the group that it had joined."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Reducing:
    """One reducing layer of a plan.

    Attributes:
        layer: index of the block.
        method: prune, average, mlerp or tome.
        tokens_in: tokens that enter, prefix included.
        removed: tokens that leave.
        select: how the tokens that leave are chosen.
    """

    layer: int
    method: str
    tokens_in: int
    removed: int
    select: Selection = Selection.BIPARTITE

    @property
    def tokens_out(self) -> int:
        """Tokens that remain, prefix included."""
        return self.tokens_in - self.removed

    def roles(self, prefix: int) -> Roles:
        """Return the roles of the tokens that enter the layer."""
        return self.select.roles(self.tokens_in, prefix, self.removed, self.layer)


@dataclass(frozen=True)
class GroupState:
    """Groups of the original tokens after one layer.

    Attributes:
        step: the layer.
        groups: [B, N0], the row of the sequence that holds each original token, `PRUNED` for a token without a row.
    """

    step: Reducing
    groups: Ints


def follow_groups(groups: Ints, step: Reducing, decisions: Decisions, prefix: int) -> GroupState:
    """Update the groups of the original tokens for one more reduction.

    A layer outputs prefix, kept sources, destinations. A matched source shares the row of what it joined
    if it merged, and has none if it was pruned.

    Args:
        groups: [B, N0] before the layer; `np.arange(N0)` for each image at first.
        step: the layer.
        decisions: decisions of the layer.
        prefix: protected tokens at the front.

    Raises:
        VerificationError: these decisions are not a matching of this layer's tokens.
    """
    roles = step.roles(prefix)
    fault = decisions.fault(len(roles.sources), roles.joinable)
    if fault is None and decisions.matched.shape[1] != step.removed:
        fault = f"{decisions.matched.shape[1]} sources leave, {step.removed} are planned"
    if fault is None and step.method != "prune" and decisions.target is None:
        fault = "sources merge, but nothing says into what"
    if fault is not None:
        raise VerificationError(
            f"layer {step.layer} decides the impossible: {fault}. `tofu-export verify` looks closer"
        )
    batch, staying = decisions.kept.shape
    row_of = np.full((batch, step.tokens_in + 1), PRUNED, dtype=np.int64)  # PRUNED indexes the last entry
    row_of[:, :prefix] = np.arange(prefix)
    row_of[:, list(roles.destinations)] = prefix + staying + np.arange(len(roles.destinations))
    places, images = np.array(roles.sources, dtype=np.int64), np.arange(batch)[:, None]
    row_of[images, places[decisions.kept]] = prefix + np.arange(staying)
    if step.method != "prune":
        assert decisions.target is not None  # no fault
        row_of[images, places[decisions.matched]] = roles.first_row + decisions.target
    return GroupState(step, row_of[images, groups])


def follow_layers(
    groups: Ints, steps: Sequence[Reducing], decided: Mapping[int, Decisions], prefix: int
) -> list[GroupState]:
    """Return the groups of the original tokens after each of these layers that decided something.

    Args:
        groups: [B, N0] before the layers.
        steps: layers in their order.
        decided: their decisions, by layer.
        prefix: protected tokens at the front.

    Raises:
        VerificationError: as in `follow_groups`.
    """
    states: list[GroupState] = []
    for step in steps:
        if step.layer in decided:
            states.append(follow_groups(groups, step, decided[step.layer], prefix))
            groups = states[-1].groups
    return states


def of_patches(groups: Ints, prefix: int, joined: int) -> Ints:
    """Convert groups of all tokens, [B, N0], to those of patches as in files, [B, N0-P] (`options.PATCH_GROUPS`).

    Args:
        groups: as in `GroupState`.
        prefix: protected tokens P at the front.
        joined: tokens that join at the front after the blocks, by which the rows of the sequence are shifted.
    """
    patches = groups[:, prefix:]
    return np.where(patches == PRUNED, PRUNED, patches + joined)


def from_patches(patches: Ints, prefix: int, left: int) -> Ints | None:
    """Invert `of_patches`; None if this does not map patches onto each of `left` tokens, prefix included."""
    found = []
    for image in patches:
        rows = np.unique(image[image != PRUNED])
        if not 0 < len(rows) == left - prefix or rows[0] < prefix or rows[-1] - rows[0] != len(rows) - 1:
            return None
        found.append(np.where(image == PRUNED, PRUNED, image - rows[0] + prefix))
    front = np.tile(np.arange(prefix), (len(patches), 1))
    return np.concatenate([front, np.stack(found)], axis=1)
