"""What can be chosen, and that budgets are met and used up."""

from __future__ import annotations

import random

import pytest

from tests.tune.spaces import MODEL, macs, space
from tofu_export.planning.plan import make_plan
from tofu_export.tune.space import Candidate


@pytest.mark.parametrize("start", [(0, 0, 0, 0), (16, 16, 16, 16), (3, 0, 9, 1)])
@pytest.mark.parametrize("target", [(2, 2, 2, 2), (5, 1, 0, 3)])
def test_a_budget_is_met_and_used_up(start: tuple[int, ...], target: tuple[int, ...]) -> None:
    limit = macs(target)
    found = space(limit).fitted(start, random.Random(0))
    assert found is not None
    assert macs(found) <= limit
    for layer in range(4):
        less = list(found)
        less[layer] -= 1
        assert less[layer] < 0 or macs(space(limit).capped(less)) > limit


def test_what_fits_already_stays() -> None:
    assert space(macs((5, 1, 0, 3))).fitted((5, 1, 0, 3), random.Random(1)) == (5, 1, 0, 3)


def test_a_budget_out_of_reach() -> None:
    assert space(1.0).fitted((0, 0, 0, 0), random.Random(0)) is None


def test_excluded_layers_stay_whole() -> None:
    found = space(macs((2, 2, 2, 2)), frozenset({0, 3})).fitted((4, 0, 0, 4), random.Random(0))
    assert found is not None
    assert found[0] == found[3] == 0


def test_a_candidate_is_exact_and_has_no_idle_methods() -> None:
    candidate = Candidate.of("PAMA", (3, 0, 2, 0))
    assert candidate == Candidate.of("PPMM", (3, 0, 2, 0))
    plan = make_plan(MODEL, candidate.reduction())
    assert plan.pattern == "P-M-"
    assert [layer.removed for layer in plan.layers] == [3, 0, 2, 0]
