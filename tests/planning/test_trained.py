"""Plans for trained predictors: places, amounts and cost, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.planning.specs import spec
from tofu_export.errors import OptionError
from tofu_export.options import Method, Mode, Reduction, Selection
from tofu_export.planning.plan import Plan, make_plan, removable
from tofu_export.planning.plan_file import PlanFile, write_plan_file
from tofu_export.planning.trained import PredictorKind, Predictors, kept_by_share

DYNAMIC = Predictors(PredictorKind.DYNAMICVIT, 3, 10)
SOFT = Predictors(PredictorKind.SPVIT, 3, 10)
DEIT = spec(tokens=197, depth=12)


def plan_of(predictors: Predictors = DYNAMIC, tokens: int = 197, depth: int = 12, **options: object) -> Plan:
    model = replace(spec(tokens=tokens, depth=depth), predictors=predictors)
    return make_plan(model, Reduction(select=Selection.PREDICTOR, **options))  # type: ignore[arg-type]


def removed(plan: Plan) -> dict[int, int]:
    return {layer.layer: layer.removed for layer in plan.layers if layer.removed}


def test_the_published_rate_of_0_7_keeps_137_96_and_67_of_196_patches() -> None:
    plan = plan_of()
    assert plan.entry().asked == {"keep_rate": 0.7}
    assert plan.pattern == "---P--P--P--"
    assert [plan.layers[layer].tokens_out - 1 for layer in (3, 6, 9)] == [137, 96, 67]
    assert not plan.prop_attn
    assert plan.prop_attn_reason == "trained without them"
    assert plan.entry().select_words == ", chosen by the predictors of dynamicvit"


def test_a_package_token_stays_beside_what_is_kept() -> None:
    plan = plan_of(SOFT)
    assert plan.pattern == "---A--A--A--"
    assert [plan.layers[layer].tokens_out - 1 for layer in (3, 6, 9)] == [137 + 1, 96 + 2, 67 + 3]
    assert plan.packs
    assert plan.tracks_sizes


@pytest.mark.parametrize(("depth", "count", "places"), [(12, 3, (3, 6, 9)), (16, 3, (4, 8, 12)), (20, 3, (5, 10, 15))])
def test_places_are_those_of_the_papers(depth: int, count: int, places: tuple[int, ...]) -> None:
    assert Predictors(PredictorKind.DYNAMICVIT, count, 1).places(depth) == places


def test_more_than_half_may_leave_but_one_stays() -> None:
    assert removed(plan_of(keep_rate=0.5)) == {3: 98, 6: 49, 9: 25}
    assert removed(plan_of(keep_rate=0.001)) == {3: 195}
    assert removed(plan_of(r=1000)) == {3: 195}
    packed = plan_of(SOFT, r=(0, 0, 0, 100, 0, 0, 90, 0, 0, 1000, 0, 0))
    assert removed(packed) == {3: 100, 6: 90, 9: 3}  # 196 less 190, of which two are packages and one becomes another
    assert removable(9, 1) == 4
    assert removable(9, 1, Selection.PREDICTOR) == 7


@settings(deadline=None, derandomize=True)
@given(st.sampled_from([DYNAMIC, SOFT]), st.floats(0.01, 1.0), st.integers(3, 300))
def test_amounts_leave_what_the_rate_says(predictors: Predictors, rate: float, patches: int) -> None:
    plan = plan_of(predictors, patches + 1, keep_rate=rate)
    stages = [layer for layer in plan.layers if layer.method is not Method.NONE]
    packages = 0
    for stage, layer in enumerate(stages, start=1):
        packages += predictors is SOFT and layer.removed > 0
        candidates = layer.tokens_out - 1 - packages
        assert candidates >= 1 if predictors is DYNAMIC else candidates >= 0
        assert candidates <= max(patches * rate**stage + 1e-6, 1) + (predictors is SOFT)
    assert kept_by_share(rate, patches, plan.layers and [layer.method for layer in plan.layers]) == tuple(
        layer.removed for layer in plan.layers
    )


def test_tokens_that_leave_before_a_block_cost_nothing_in_its_attention() -> None:
    """Costs: 10^3 a token and 10^6 a pair in the attention, 1 a token in the MLP, 10 a token in a predictor."""
    plan = plan_of(Predictors(PredictorKind.DYNAMICVIT, 1, 10), tokens=17, depth=3, r=(0, 5, 0))
    blocks = sum(10**3 * tokens + 10**6 * tokens**2 + tokens for tokens in (17, 12, 12))
    assert plan.macs_reduced == 10**15 + 10**9 + blocks + 10 * 16 + 10**12 * 12


def test_a_list_of_r_says_where() -> None:
    amounts = (0, 7, 0, 0, 0, 5, 0, 0, 0, 0, 0, 3)
    assert removed(plan_of(r=amounts)) == {1: 7, 5: 5, 11: 3}
    assert plan_of(r=amounts).pattern == "-P---P-----P"


def test_a_pattern_says_where_and_how() -> None:
    plan = plan_of(pattern="-A--P------M", keep_rate=0.5)
    assert removed(plan) == {1: 97, 4: 49, 11: 24}
    assert plan.packs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": Mode.TOME}, "bring their method, prune: leave out mode and prune_layers, or give a pattern"),
        ({"prune_layers": 2}, "bring their method, prune"),
        ({"pattern": "PP----------"}, "has 3 predictors, but tokens leave before 2 blocks .0, 1.: name 3, such as 3"),
        ({"r": (0, 3) + (0,) * 10}, "tokens leave before 1 blocks .1."),
        ({"exclude_layers": (6,)}, "tokens leave before 2 blocks .3, 9."),
        ({"r": (1, 2, 3)}, "r lists 3 layers, but the model has 12"),
    ],
    ids=str,
)  # fmt: skip
def test_what_does_not_fit_the_predictors_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        plan_of(**options)  # type: ignore[arg-type]


def test_weights_with_predictors_and_the_selection_go_together() -> None:
    with pytest.raises(OptionError, match=r"toy has no trained predictors, which --select predictor needs.*DynamicViT"):
        make_plan(DEIT, Reduction(select=Selection.PREDICTOR))
    for asked in (Reduction(), Reduction(r=0)):
        with pytest.raises(OptionError, match=r"3 trained predictors .* \(spvit\): add --select predictor, or --allow"):
            make_plan(replace(DEIT, predictors=SOFT), asked)


@pytest.mark.parametrize("predictors", [DYNAMIC, SOFT])
def test_a_plan_file_keeps_places_and_amounts(tmp_path: Path, predictors: Predictors) -> None:
    plan, model = plan_of(predictors, keep_rate=0.6), replace(DEIT, predictors=predictors)
    write_plan_file(tmp_path / "plan.json", model, plan, {})
    again = make_plan(model, PlanFile.read(tmp_path / "plan.json").reduction())
    assert (again.layers, again.prop_attn, again.macs_reduced) == (plan.layers, plan.prop_attn, plan.macs_reduced)


@pytest.mark.parametrize("way", ["speedup", "gmacs"])
def test_budgets_are_met(way: str) -> None:
    model = replace(DEIT, predictors=DYNAMIC, tail_fixed=0, tail_token=0)
    full = make_plan(model, Reduction(r=0, select=Selection.PREDICTOR)).gmacs_full
    plan = make_plan(model, Reduction(**{way: 1.3 if way == "speedup" else full / 1.3}, select=Selection.PREDICTOR))  # type: ignore[arg-type]
    assert plan.flop_ratio >= 1.3
    assert set(removed(plan)) == {3, 6, 9}
