"""Plans: the paper's GMACs, token counts, caps and patterns."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from tests import tiny
from tests.planning.specs import spec
from tofu_export.errors import OptionError
from tofu_export.options import Method, Mode, OutputKind, PrunedSizes, Reduction, Schedule, Selection
from tofu_export.planning.plan import ModelSpec, Plan, make_plan, removable
from tofu_export.zoo.specs import plan_model


def tokens_in(plan: Plan) -> list[int]:
    return [layer.tokens_in for layer in plan.layers]


def removed(plan: Plan) -> list[int]:
    return [layer.removed for layer in plan.layers]


# --- The paper's figures -----------------------------------------------------------------------------------------


@cache
def paper_model(name: str) -> ModelSpec:
    return plan_model(name, Reduction(r=0))[0]


@pytest.mark.parametrize(
    ("name", "r", "gmacs"),
    [
        ("vit_base", 0, 17.58),
        ("vit_base", 8, 13.12),
        ("vit_base", 12, 10.93),
        ("vit_base", 16, 8.78),
        ("vit_base", 20, 7.14),
    ],
)
def test_gmacs_of_vit_base(name: str, r: int, gmacs: float) -> None:
    plan = make_plan(paper_model(name), Reduction(r=r))
    assert plan.gmacs_reduced == pytest.approx(gmacs, abs=0.01)
    assert plan.gmacs_full == pytest.approx(17.58, abs=0.01)
    assert plan.flop_ratio == plan.macs_full / plan.macs_reduced
    assert plan.removes is (r > 0)


@pytest.mark.parametrize(("r", "gmacs"), [(0, 61.60), (8, 30.99), (12, 20.90), (16, 15.86), (20, 12.86)])
def test_gmacs_of_vit_large(r: int, gmacs: float) -> None:
    assert make_plan(paper_model("vit_large"), Reduction(r=r)).gmacs_reduced == pytest.approx(gmacs, abs=0.01)


@pytest.mark.parametrize(("r", "gmacs"), [(0, 4.6), (13, 2.7)])
def test_gmacs_of_vit_small(r: int, gmacs: float) -> None:
    assert round(make_plan(paper_model("vit_small"), Reduction(r=r)).gmacs_reduced, 1) == gmacs


def test_facts_of_vit_base() -> None:
    model = paper_model("vit_base")
    assert (model.tokens, model.prefix_tokens, model.depth, model.embed_dim) == (197, 1, 12, 768)
    assert (model.image_size, model.in_chans, model.num_classes) == ((224, 224), 3, 1000)
    assert model.params == 86_567_656
    assert model.name == "vit_base_patch16_224"


def test_the_method_does_not_change_the_cost() -> None:
    model = paper_model("vit_base")
    assert len({make_plan(model, Reduction(r=16, mode=mode)).macs_reduced for mode in Mode}) == 1


def test_tokens_of_vit_base_at_16() -> None:
    plan = make_plan(paper_model("vit_base"), Reduction(r=16))
    assert tokens_in(plan) == [197 - 16 * layer for layer in range(12)]
    assert removed(plan) == [16] * 11 + [10]  # 21 tokens are left, one of them protected
    assert plan.pattern == "PPPWWWWWWWWW"
    assert make_plan(paper_model("vit_base"), Reduction(r=16, mode=Mode.MLERP)).pattern == "PPPPPPMMMMMM"


def test_tokens_of_vit_base_at_20_meet_the_cap() -> None:
    plan = make_plan(paper_model("vit_base"), Reduction(r=20))
    assert removed(plan) == [20] * 8 + [18, 9, 4, 2]
    assert plan.layers[-1].tokens_out == 4


def test_macs_counted_by_hand() -> None:
    """The tiny model, layer by layer, as a person would count it."""
    dim, hidden, patches, tokens = 24, 48, 16, 17
    stem = patches * 3 * 64 * dim
    block_in = 5 * dim + dim * 3 * dim + dim * dim
    block_out = 5 * dim + 2 * dim * hidden
    plan = tiny.plan_of("cls", Reduction(r=(3, 0, 2), prune_layers=0))
    want = stem + 5 * dim * (tokens - 5) + dim * tiny.CLASSES
    for entering, leaving in ((17, 14), (14, 14), (14, 12)):
        want += block_in * entering + 2 * dim * entering**2 + block_out * leaving
    assert plan.macs_reduced == want


@pytest.mark.parametrize("name", tiny.MODELS)
def test_structure_of_tiny_models(name: str) -> None:
    model = tiny.spec(name)
    assert model.prefix_tokens == tiny.MODELS[name].prefix
    assert model.tokens == 16 + model.prefix_tokens
    assert model.depth == tiny.DEPTH
    assert model.params == sum(weight.numel() for weight in tiny.build(name).parameters())
    assert make_plan(model, Reduction(r=0)).macs_reduced == make_plan(model, Reduction(r=3)).macs_full


# --- Pure planning -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
@pytest.mark.parametrize("tokens", [0, 1, 2, 5, 6, 7, 8, 197])
def test_at_most_half_of_the_unprotected_tokens_leave(tokens: int, prefix: int) -> None:
    assert removable(tokens, prefix) == max(0, tokens - prefix) // 2
    plan = make_plan(spec(tokens, prefix, depth=12), Reduction(r=1000))
    for layer in plan.layers:
        assert layer.removed == removable(layer.tokens_in, prefix)
        assert layer.tokens_out >= min(tokens, prefix)
    # halved again and again until one unprotected token is left, which has nothing to join
    assert plan.layers[-1].tokens_out == min(tokens, prefix + 1)


@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
def test_the_last_place_of_a_cap(prefix: int) -> None:
    model = spec(tokens=prefix + 9, prefix=prefix)
    assert removed(make_plan(model, Reduction(r=4)))[0] == 4
    assert removed(make_plan(model, Reduction(r=5)))[0] == 4
    assert removed(make_plan(model, Reduction(r=(0, 0, 5)))) == [0, 0, 4]


def test_a_layer_of_method_none_removes_nothing() -> None:
    plan = make_plan(spec(), Reduction(r=2, pattern="M-P"))
    assert removed(plan) == [2, 0, 2]
    assert plan.pattern == "M-P"
    assert [layer.method for layer in plan.layers] == [Method.MLERP, Method.NONE, Method.PRUNE]


def test_a_linear_schedule_is_planned_and_capped() -> None:
    assert removed(make_plan(spec(), Reduction(r=3, schedule=Schedule.LINEAR))) == [6, 3, 0]
    assert removed(make_plan(spec(), Reduction(r=6, schedule=Schedule.LINEAR))) == [8, 4, 0]


@pytest.mark.parametrize("reduction", [Reduction(r=0), Reduction(r=(0, 0, 0)), Reduction(r=9, pattern="---")])
def test_nothing_removed(reduction: Reduction) -> None:
    plan = make_plan(spec(), reduction)
    assert not plan.removes
    assert plan.macs_reduced == plan.macs_full
    assert plan.flop_ratio == 1.0


@pytest.mark.parametrize("reduction", [Reduction(r=0, mode=Mode.TOME), Reduction(r=0, prop_attn=True)])
def test_sizes_are_not_tracked_where_nothing_leaves(reduction: Reduction) -> None:
    assert not make_plan(spec(), reduction).tracks_sizes


@pytest.mark.parametrize("mode", Mode)
def test_sizes_enter_the_attention_unless_a_model_was_trained_as_a_masked_autoencoder(mode: Mode) -> None:
    def decided(name: str, asked: bool | None = None) -> tuple[bool, str]:
        plan = make_plan(replace(spec(), name=name), Reduction(r=2, mode=mode, prop_attn=asked))
        return plan.prop_attn, plan.prop_attn_reason

    assert decided("vit_base_patch16_224") == (True, "default")
    for name in ("vit_base_patch16_224.mae", "hf-hub:timm/vit_base_patch16_224.mae", "vit_mae_small"):
        assert decided(name) == (False, "trained as a masked autoencoder"), name
    for name in ("convnextv2_nano.fcmae_ft_in1k", "local-dir:/home/mae/vit", "maelstrom_vit"):
        assert decided(name) == (True, "default"), name
    assert decided("vit_base_patch16_224.mae", True) == (True, "asked for")
    assert decided("vit_base_patch16_224", False) == (False, "asked for")


def test_sizes_of_the_attention_and_of_the_mean_are_two_things() -> None:
    """ToMe's own setting for masked autoencoders: a mean weighted by sizes, and attention without them."""
    plan = make_plan(spec(), Reduction(r=2, mode=Mode.TOME, prop_attn=False))
    assert (plan.pattern, plan.prop_attn, plan.tracks_sizes) == ("TTT", False, True)
    assert not make_plan(spec(), Reduction(r=2, mode=Mode.MLERP, prop_attn=False)).tracks_sizes


@pytest.mark.parametrize(
    ("pattern", "options", "targets"),
    [
        ("PWP", {"prop_attn": False}, [True, True, False]),
        ("PPP", {}, [True, True, False]),  # nothing reads sizes behind the last layer
        ("PPP", {"prop_attn": False}, [False, False, False]),
        ("PPP", {"pruned_sizes": PrunedSizes.LOST}, [False, False, False]),
        ("PMP", {"pruned_sizes": PrunedSizes.LOST}, [False, True, False]),
        ("PTP", {"prop_attn": False}, [True, True, False]),  # only tome reads them
        ("MAT", {"prop_attn": False}, [True, True, True]),
    ],
)
def test_where_the_destination_of_a_pruned_token_matters(
    pattern: str, options: dict[str, Any], targets: list[bool]
) -> None:
    plan = make_plan(spec(), Reduction(r=2, pattern=pattern, **options))
    assert [plan.needs_targets(layer) for layer in plan.layers] == targets


def test_cost_of_each_half() -> None:
    """The attention sees what enters, the MLP and the tail what is left."""
    plan = make_plan(spec(), Reduction(r=(3, 0, 2), prune_layers=0))
    attention = 10**3 * (17 + 14 + 14) + 10**6 * (17**2 + 14**2 + 14**2)
    assert plan.macs_reduced == 10**9 + attention + (14 + 14 + 12) + 10**12 * 12 + 10**15
    full = 10**3 * 17 * 3 + 10**6 * 17**2 * 3
    assert plan.macs_full == 10**9 + full + 17 * 3 + 10**12 * 17 + 10**15


@pytest.mark.parametrize("reduction", [Reduction(), Reduction(prune_layers=0), Reduction(r=0)])
def test_a_model_without_blocks_is_refused(reduction: Reduction) -> None:
    with pytest.raises(OptionError, match="no blocks"):
        make_plan(spec(depth=0), reduction)


@pytest.mark.parametrize(
    ("reduction", "message"),
    [
        (Reduction(r=(1, 2)), "lists 2 layers"),
        (Reduction(pattern="PP"), "2 letters"),
        (Reduction(prune_layers=4), "only 3 layers"),
    ],
)
def test_options_that_do_not_fit_are_refused(reduction: Reduction, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make_plan(spec(), reduction)


@pytest.mark.parametrize(
    ("rate", "leaving"), [(0.9, [1, 0, 0]), (0.7, [3, 2, 1]), (0.5, [5, 2, 1]), (0.1, [5, 2, 1]), (1.0, [0, 0, 0])]
)
def test_a_keep_rate_counts_unprotected_tokens(rate: float, leaving: list[int]) -> None:
    """10 of them at first: at 0.9 one leaves (in binary arithmetic it would stay), at 0.5 half, below the cap holds."""
    plan = make_plan(spec(tokens=12, prefix=2), Reduction(keep_rate=rate))
    assert removed(plan) == leaving
    assert plan.r == tuple(leaving)


@pytest.mark.parametrize("tokens", [0, 1, 2])
def test_a_keep_rate_where_only_protected_tokens_are_left(tokens: int) -> None:
    assert removed(make_plan(spec(tokens=tokens, prefix=2), Reduction(keep_rate=0.5))) == [0, 0, 0]


@pytest.mark.parametrize(
    "way", [{"r": 2}, {"r": (2, 2, 2)}, {"r": 2, "schedule": Schedule.LINEAR}, {"keep_rate": 0.8}, {"speedup": 1.005}]
)
def test_excluded_layers_remove_nothing(way: dict[str, Any]) -> None:
    plan = make_plan(spec(), Reduction(**way, exclude_layers=(1,), prune_layers=2))
    assert plan.pattern == "P-W"
    assert removed(plan)[0] > 0
    assert removed(plan)[1] == 0
    assert plan.to_dict()["prune_layers"] == 2
    assert plan.to_dict()["exclude_layers"] == [1]


def test_excluding_all_layers_removes_nothing() -> None:
    assert not make_plan(spec(), Reduction(exclude_layers=(0, 1, 2))).removes
    with pytest.raises(OptionError, match="out of reach"):
        make_plan(spec(), Reduction(speedup=1.1, exclude_layers=(0, 1, 2)))


@pytest.mark.parametrize("way", [{"gmacs": 9.0}, {"speedup": 1.8}, {"speedup": 2, "schedule": Schedule.LINEAR}])
def test_a_budget_of_vit_base_is_met_closely(way: dict[str, Any]) -> None:
    plan = make_plan(paper_model("vit_base"), Reduction(**way))
    limit = way.get("gmacs", plan.gmacs_full / way.get("speedup", 1))
    assert 0.99 * limit < plan.gmacs_reduced <= limit
    assert make_plan(paper_model("vit_base"), Reduction(r=plan.r)).layers == plan.layers
    entry = plan.to_dict()
    assert json.loads(json.dumps(entry)) == entry
    assert entry["asked"] == {name: value for name, value in way.items() if name != "schedule"}
    assert entry["r"] == removed(plan)


def test_a_budget_that_asks_for_nothing_is_the_plain_model() -> None:
    assert not make_plan(paper_model("vit_base"), Reduction(speedup=1)).removes
    assert not make_plan(paper_model("vit_base"), Reduction(gmacs=17.6)).removes


def test_the_report_entry() -> None:
    plan = make_plan(spec(depth=4), Reduction(r=(3, 0, 2, 1), pattern="PP-M"))
    entry = plan.to_dict()
    assert json.loads(json.dumps(entry)) == entry
    assert entry["r"] == [3, 0, 2, 1]
    assert entry["asked"] == {"r": [3, 0, 2, 1]}
    assert entry["exclude_layers"] == []
    assert (entry["mode"], entry["pattern"], entry["prune_layers"]) == ("weighted-mlerp", "PP-M", 2)
    assert entry["layers"] == [
        {"layer": 0, "method": "prune", "tokens_in": 17, "removed": 3, "tokens_out": 14},
        {"layer": 1, "method": "prune", "tokens_in": 14, "removed": 0, "tokens_out": 14},
        {"layer": 2, "method": "none", "tokens_in": 14, "removed": 0, "tokens_out": 14},
        {"layer": 3, "method": "mlerp", "tokens_in": 14, "removed": 1, "tokens_out": 13},
    ]
    assert entry["gmacs"] == {"full": round(plan.macs_full / 1e9, 4), "reduced": round(plan.macs_reduced / 1e9, 4)}
    assert (entry["prop_attn"], entry["prop_attn_reason"], entry["pruned_sizes"]) == (True, "default", "take-over")


# --- Restoring ---------------------------------------------------------------------------------------------------


def test_restoring_pays_the_tail_for_every_token() -> None:
    plan = make_plan(spec(), Reduction(r=4, restore_grid=True))
    assert plan.restores_grid
    assert plan.macs_reduced // 10**12 == 10**3 + 17
    assert make_plan(spec(), Reduction(r=4)).macs_reduced // 10**12 == 10**3 + plan.layers[-1].tokens_out


def test_a_budget_counts_what_restoring_costs() -> None:
    """Nearly all the cost is in the tail: without restoring it falls with the tokens, with it nothing can reach it."""
    budget = (10**15 + 16 * 10**12) / 1e9
    assert make_plan(spec(), Reduction(gmacs=budget)).removes
    with pytest.raises(OptionError, match="out of reach"):
        make_plan(spec(), Reduction(gmacs=budget, restore_grid=True))


def test_restoring_is_settled_by_the_output() -> None:
    asked = Reduction(r=4)
    assert asked.restoring_for(None).restore_grid is False
    assert asked.restoring_for(OutputKind.TOKENS).restore_grid is False
    assert asked.restoring_for(OutputKind.GRID).restore_grid is True
    restored = Reduction(r=4, restore_grid=True)
    assert all(restored.restoring_for(kind) == restored for kind in OutputKind)
    with pytest.raises(OptionError, match="--no-restore-grid"):
        Reduction(r=4, restore_grid=False).restoring_for(OutputKind.GRID)
    with pytest.raises(OptionError, match="restore_grid is 'yes'"):
        Reduction(restore_grid="yes")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reduction", "words"),
    [
        (Reduction(r=1), "on (default)"),
        (Reduction(r=1, pruned_sizes=PrunedSizes.LOST), "on, those of pruned tokens lost (default)"),
        (
            Reduction(r=1, select=Selection.CLASS_ATTENTION, pruned_sizes=PrunedSizes.TAKE_OVER),
            "on, those of pruned tokens lost as no token stands for them with class-attention (default)",
        ),
        (Reduction(r=1, select=Selection.CLASS_ATTENTION, pattern="MMMM"), "on (default)"),
    ],
)
def test_a_plan_says_what_becomes_of_the_sizes(reduction: Reduction, words: str) -> None:
    assert make_plan(spec(tokens=17, depth=4), reduction).entry().sizes_words == words
