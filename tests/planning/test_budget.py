"""Budgets: the solver against every plan that the rule admits."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.planning.specs import spec
from tofu_export.errors import OptionError
from tofu_export.options import Reduction, Schedule
from tofu_export.planning.budget import Budget
from tofu_export.planning.plan import BlockCost, ModelSpec, Plan, make_plan

GIGA = 10**9


@st.composite
def models(draw: st.DrawFn) -> ModelSpec:
    """A few layers and tokens, costs of all proportions; in units of GMACs, so that a budget is written in short."""
    cost = st.integers(0, 3).map(lambda cost: cost * GIGA)
    prefix = draw(st.integers(0, 3))
    return replace(
        spec(prefix + draw(st.integers(0, 13)), prefix),
        stem_macs=GIGA,
        blocks=tuple(draw(st.lists(st.builds(BlockCost, cost, cost, cost), min_size=1, max_size=4))),
        tail_token=draw(cost),
        tail_fixed=GIGA,
    )


def removed(plan: Plan) -> tuple[int, ...]:
    return tuple(layer.removed for layer in plan.layers)


def by_brute_force(model: ModelSpec, limit: int, schedule: Schedule, excluded: tuple[int, ...]) -> Plan | None:
    """Every r in turn, then all amounts between those of r - 1 and r."""

    def planned(amounts: tuple[int, ...]) -> Plan:
        return make_plan(model, Reduction(r=amounts, exclude_layers=excluded))

    for r in range(model.tokens * model.depth + 1):
        high = schedule.spread(r, model.depth)
        if planned(high).macs_reduced > limit:
            continue
        low = schedule.spread(max(r - 1, 0), model.depth)
        ranges = [range(least, most + 1) for least, most in zip(low, high, strict=True)]
        plans = [plan for plan in map(planned, product(*ranges)) if plan.macs_reduced <= limit]
        return min(plans, key=lambda plan: sum(removed(plan)))
    return None


def step_by_step(model: ModelSpec, limit: int, schedule: Schedule, excluded: tuple[int, ...]) -> tuple[int, ...]:
    """The rule as it is written, without bisection."""

    def planned(amounts: list[int]) -> Plan:
        return make_plan(model, Reduction(r=tuple(amounts), exclude_layers=excluded))

    r = 0
    while planned(list(schedule.spread(r, model.depth))).macs_reduced > limit:
        r += 1
    amounts, low = list(schedule.spread(r, model.depth)), schedule.spread(max(r - 1, 0), model.depth)
    for layer in reversed(range(model.depth)):
        while amounts[layer] > low[layer]:
            amounts[layer] -= 1
            if planned(amounts).macs_reduced > limit:
                amounts[layer] += 1
                return removed(planned(amounts))
    raise AssertionError("the next smaller r meets the budget")


@settings(max_examples=300)
@given(models(), st.sampled_from(Schedule), st.floats(0, 1), st.sets(st.integers(0, 3), max_size=2))
def test_no_smaller_reduction_meets_the_budget(
    model: ModelSpec, schedule: Schedule, share: float, excluded: set[int]
) -> None:
    layers = tuple(layer for layer in sorted(excluded) if layer < model.depth)
    full = make_plan(model, Reduction(r=0)).macs_full
    limit = max(round(full * share) // GIGA, 1) * GIGA
    asked = Reduction(gmacs=limit // GIGA, schedule=schedule, exclude_layers=layers)
    want = by_brute_force(model, limit, schedule, layers)
    if want is None:
        with pytest.raises(OptionError, match="out of reach"):
            make_plan(model, asked)
        return
    plan = make_plan(model, asked)
    assert plan.macs_reduced <= limit
    assert sum(removed(plan)) == sum(removed(want))
    if plan.removes:
        assert removed(plan) == step_by_step(model, limit, schedule, layers)


def toy(tokens: int = 101, depth: int = 4) -> ModelSpec:
    blocks = (BlockCost(GIGA // 2, 0, GIGA // 2),) * depth
    return replace(spec(tokens), blocks=blocks, stem_macs=0, tail_token=0, tail_fixed=0)


@pytest.mark.parametrize(
    ("gmacs", "want"),
    [
        (404, (0, 0, 0, 0)),
        (403.5, (1, 0, 0, 0)),
        (400.5, (1, 0, 0, 0)),
        (400.4, (1, 1, 0, 0)),
        (398, (1, 1, 0, 0)),
        (397.9, (1, 1, 1, 0)),
        (396, (1, 1, 1, 1)),
        (395.9, (2, 1, 1, 1)),
    ],
)
def test_amounts_are_lowered_last_layer_first(gmacs: float, want: tuple[int, ...]) -> None:
    """A token that leaves in layer 0, 1, 2, 3 saves 3.5, 2.5, 1.5, 0.5 GMACs."""
    assert removed(make_plan(toy(), Reduction(gmacs=gmacs))) == want


@pytest.mark.parametrize(("speedup", "macs"), [(2, 50), (1.5, 66), (1.1, 90)])
def test_a_speedup_is_a_ratio_of_macs(speedup: float, macs: int) -> None:
    assert Budget.of(100, speedup=speedup).macs == macs


def test_decimals_count_as_written() -> None:
    assert Budget.of(10, gmacs=8.78).macs == 8_780_000_000
    assert Budget.of(11 * GIGA, speedup=1.1).macs == 10 * GIGA


@pytest.mark.parametrize("ways", [{}, {"gmacs": 1.0, "speedup": 2.0}])
def test_a_budget_is_given_in_one_way(ways: dict[str, float]) -> None:
    with pytest.raises(OptionError, match="either gmacs or speedup"):
        Budget.of(10, **ways)


@pytest.mark.parametrize("schedule", Schedule)
def test_out_of_reach_names_what_can_be_asked_for(schedule: Schedule) -> None:
    with pytest.raises(OptionError, match="out of reach") as error:
        make_plan(toy(), Reduction(speedup=50, schedule=schedule))
    found = re.search(r"reach is ([\d.]+), a speedup of ([\d.]+\d)\.", str(error.value))
    assert found is not None
    gmacs, speedup = map(float, found.groups())
    assert "needs 404.00 GMACs" in str(error.value)
    make_plan(toy(), Reduction(gmacs=gmacs, schedule=schedule))
    make_plan(toy(), Reduction(speedup=speedup, schedule=schedule))
    with pytest.raises(OptionError, match="out of reach"):
        make_plan(toy(), Reduction(gmacs=gmacs - 0.01, schedule=schedule))
