"""Table of selections. Explicit, no registration by import."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tofu_export.options import Selection
from tofu_export.patch.energy import energy_scores, match_by_energy
from tofu_export.patch.importance import budget_scores, importance_scores, match_by_importance
from tofu_export.patch.matching import Candidates, Matching, Scores, match, similarity

__all__ = ["SELECTORS", "Selector"]


class Selector(NamedTuple):
    """Functions of a selection: how tokens are scored, and how R of them are chosen by these scores."""

    score: Callable[[Candidates], Scores]
    match: Callable[[Scores, int], Matching]


_TWO_SETS = Selector(similarity, match)
_BY_IMPORTANCE = Selector(importance_scores, match_by_importance)

SELECTORS: dict[Selection, Selector] = {
    Selection.BIPARTITE: _TWO_SETS,
    Selection.ENERGY: Selector(energy_scores, match_by_energy),
    Selection.CLASS_ATTENTION: _BY_IMPORTANCE,
    Selection.RANDOM: _TWO_SETS,  # all sources leave, and each joins the nearest of the others
    Selection.STRIDED: _TWO_SETS,
    Selection.PREDICTOR: _BY_IMPORTANCE,
    Selection.HALTING: Selector(budget_scores, match_by_importance),
}
