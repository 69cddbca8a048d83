"""Judge which tokens halt: alike, different where rounding decides, or wrong. Numpy only.

A token halts when its gate leaves too little of its budget (`tofu_export.options.Halting`). Axes: B batch, N tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tofu_export.compare.decisions import DecisionReport
from tofu_export.options import Halting

__all__ = ["Budgets", "judge_halting"]

Floats = NDArray[np.floating[Any]]

_LAST = 1e-7
"""Distance of a score from 0 and 1 at which its logit is still finite."""


@dataclass(frozen=True)
class Budgets:
    """Budgets of the reference in one block, and its gate.

    Attributes:
        before: [B, N], what was left before the block; 0 for tokens that had halted.
        channel: [B, N], what the gate reads.
        after: [B, N], what is left; 0 for tokens that have halted.
        gate: the gate.
    """

    before: Floats
    channel: Floats
    after: Floats
    gate: Halting

    def differs(self, working: NDArray[Any]) -> NDArray[np.bool_]:
        """Return the tokens [B, N] of which `working` says other than the reference."""
        differs: NDArray[np.bool_] = (working > 0) != (self.after > 0)
        return differs

    def margins(self) -> NDArray[np.float64]:
        """Return how far each channel is from where the token just halts, as a share of its size, [B, N].

        Activations are rounded in proportion to their size, so that the gate's steepness does not matter.
        """
        score = np.clip(self.before.astype(np.float64) - self.gate.least, _LAST, 1 - _LAST)
        edge = (np.log(score / (1 - score)) + self.gate.center) / self.gate.scale
        size = np.maximum(1.0, np.maximum(np.abs(self.channel), np.abs(edge)))
        apart: NDArray[np.float64] = np.abs(self.channel - edge) / size
        return apart

    def followed(self, working: NDArray[Any]) -> NDArray[np.float32]:
        """Return budgets [B, N] float32 with which exactly the tokens in `working` go on, the reference's if alike."""
        score = 1 / (1 + np.exp(self.gate.center - self.gate.scale * self.channel.astype(np.float64)))
        left = np.maximum(self.before - score, _LAST)
        budget = np.where(self.differs(working), np.where(working > 0, left, 0.0), self.after)
        return budget.astype(np.float32)


def judge_halting(layer: int, working: NDArray[Any], budgets: Budgets, near_tie: float) -> DecisionReport:
    """Compare which tokens go on after a block with the reference's.

    Args:
        layer: index of the block.
        working: [B, N], 1 for tokens that go on, 0 for those that have halted.
        budgets: budgets of the reference.
        near_tie: largest margin that counts as a tie.
    """
    had = budgets.before > 0
    compared = int(had.sum())
    fault = None
    if working.shape != had.shape:
        fault = f"it says of {working.shape[-1]} tokens whether they go on, expected {had.shape[-1]}"
    elif not np.isin(working, (0, 1)).all():
        fault = "whether a token goes on is neither 0 nor 1"
    elif (working[~had] > 0).any():
        fault = "a token that had halted goes on"
    if fault is not None:
        return DecisionReport((layer,), compared, compared, 0, compared, faults=(f"layer {layer}: {fault}",))
    margins = budgets.margins()[budgets.differs(working)]
    wrong = int((margins > near_tie).sum())
    return DecisionReport(
        (layer,), compared, len(margins), len(margins) - wrong, wrong, float(margins.max(initial=0.0)), ()
    )
