"""The oracle itself: examples worked out by hand, and the unreduced model against timm."""

from __future__ import annotations

import math

import numpy as np
import pytest
import timm
import torch
from numpy.testing import assert_allclose, assert_array_equal

from tests.reference import METHODS, WEIGHED, apply_matching, cap, fuse, margin, match, vit_forward
from tests.tiny import make_all_weights_matter

# Destinations 1, 3, 5 point east, north and west. Similarities are 3-4-5 triangles:
#   source 0: 0.8  0.6 -0.8      source 2: 0.6  0.8 -0.6      source 4: 1  0 -1
COMPASS = np.array([[4.0, 3.0], [1.0, 0.0], [3.0, 4.0], [0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]])
TOKENS = np.array([[2.0, 0.0], [4.0, 0.0], [9.0, 9.0], [7.0, 1.0], [0.0, 3.0], [5.0, 5.0]])
SIZES = np.array([1.0, 2.0, 1.0, 1.0, 3.0, 1.0])


def test_match_by_hand() -> None:
    matching = match(COMPASS, prefix=0, r=2)
    assert matching.matched == [(4, 1), (0, 1)]  # 0 and 2 both score 0.8: the lower one goes
    assert matching.kept == [2]
    assert matching.destinations == [1, 3, 5]
    assert matching.scores == pytest.approx({0: 0.8, 2: 0.8, 4: 1.0}, rel=1e-15)
    assert matching.similarity[0, 5] == pytest.approx(-0.8, rel=1e-15)
    assert len(matching.similarity) == 9


@pytest.mark.parametrize(
    ("method", "merged", "size"),
    [
        ("prune", [4.0, 0.0], 6.0),
        ("average", [2.0, 1.0], 6.0),
        ("mlerp", [2.0 / math.sqrt(5.0) * 4.0, 1.0 / math.sqrt(5.0) * 4.0], 6.0),
        (
            "weighted-mlerp",
            [10 / math.sqrt(181.0) * 4.0, 9 / math.sqrt(181.0) * 4.0],
            6.0,
        ),
        ("tome", [(2 * 4.0 + 1 * 2.0) / 6.0, 3 * 3.0 / 6.0], 6.0),
    ],
)
def test_two_sources_on_one_destination(method: str, merged: list[float], size: float) -> None:
    x, sizes = fuse(TOKENS[None], COMPASS[None], prefix=0, r=2, method=method, sizes=SIZES[None])
    assert_allclose(x[0], [[9.0, 9.0], merged, [7.0, 1.0], [5.0, 5.0]], rtol=1e-15)
    assert sizes is not None
    assert_array_equal(sizes[0], [1.0, size, 1.0, 1.0])


@pytest.mark.parametrize(("method", "size"), [("prune", 2.0), ("average", 6.0)])
def test_sizes_of_pruned_tokens_can_be_lost(method: str, size: float) -> None:
    _, sizes = fuse(TOKENS[None], COMPASS[None], prefix=0, r=2, method=method, sizes=SIZES[None], takes_over=False)
    assert sizes is not None
    assert_array_equal(sizes[0], [1.0, size, 1.0, 1.0])


@pytest.mark.parametrize("method", ["prune", "average", "mlerp"])
def test_sizes_do_not_touch_tokens_of_other_methods(method: str) -> None:
    with_sizes, _ = fuse(TOKENS[None], COMPASS[None], prefix=0, r=2, method=method, sizes=SIZES[None])
    without, none = fuse(TOKENS[None], COMPASS[None], prefix=0, r=2, method=method)
    assert_array_equal(with_sizes, without)
    assert none is None


@pytest.mark.parametrize("method", WEIGHED)
def test_a_weighted_mean_without_sizes_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match="pass sizes"):
        fuse(TOKENS[None], COMPASS[None], prefix=0, r=2, method=method)


@pytest.mark.parametrize("group", [1, 2, 5, 20])
def test_group_of_any_size(group: int) -> None:
    """Sources 0, 2, ... hold 1, 2, ... times the unit vector, the one destination that they resemble holds 0."""
    target = group // 2
    metric = np.zeros((2 * group, 2))
    metric[0::2] = [1.0, 0.0]
    metric[1::2] = [0.0, 1.0]
    metric[2 * target + 1] = [1.0, 0.0]
    x = np.zeros((2 * group, 1))
    x[0::2, 0] = np.arange(1, group + 1)
    expected = np.zeros((group, 1))

    average, _ = fuse(x[None], metric[None], prefix=0, r=group, method="average")
    expected[target] = group * (group + 1) / 2 / (group + 1)
    assert_allclose(average[0], expected, rtol=1e-15)

    mlerp, _ = fuse(x[None], metric[None], prefix=0, r=group, method="mlerp")
    expected[target] = group
    assert_allclose(mlerp[0], expected, rtol=1e-15)


def test_zero_key_is_like_nothing_and_goes_to_the_first_destination() -> None:
    metric = np.array([[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, -1.0]])
    matching = match(metric, prefix=0, r=1)
    assert matching.scores == {0: 0.0, 2: 0.0}
    assert matching.matched == [(0, 1)]  # 0 ties with 2; among destinations: 0 and 0, the lower


def test_tiny_key_is_divided_by_the_floor() -> None:
    assert match(np.array([[1e-13, 0.0], [2.0, 0.0]]), prefix=0, r=1).scores[0] == pytest.approx(0.1, rel=1e-12)


def test_antipodal_tokens_cancel() -> None:
    x = np.array([[[3.0, -4.0], [-3.0, 4.0]]])
    for method in ("average", "mlerp", "tome"):
        merged, sizes = fuse(x, np.ones((1, 2, 3)), prefix=0, r=1, method=method, sizes=np.ones((1, 2)))
        assert_array_equal(merged, [[[0.0, 0.0]]])
        assert_array_equal(sizes, [[2.0]])


def test_zero_tokens_merge_to_zero() -> None:
    merged, _ = fuse(np.zeros((1, 4, 3)), np.ones((1, 4, 3)), prefix=0, r=2, method="mlerp")
    assert_array_equal(merged, np.zeros((1, 2, 3)))


def test_all_ties_go_low() -> None:
    matching = match(np.ones((11, 3)), prefix=1, r=3)
    assert matching.matched == [(2, 1), (4, 1), (6, 1)]
    assert matching.kept == [8, 10]
    assert margin(matching) == 0.0


@pytest.mark.parametrize(
    ("tokens", "prefix", "sources", "destinations"),
    [
        (6, 0, [0, 2, 4], [1, 3, 5]),
        (7, 0, [0, 2, 4, 6], [1, 3, 5]),
        (6, 1, [2, 4], [1, 3, 5]),
        (7, 1, [2, 4, 6], [1, 3, 5]),
        (7, 2, [2, 4, 6], [3, 5]),
        (8, 2, [2, 4, 6], [3, 5, 7]),
        (9, 5, [6, 8], [5, 7]),
        (10, 5, [6, 8], [5, 7, 9]),
        (5, 5, [], []),
        (1, 0, [0], []),
    ],
)
def test_partition(tokens: int, prefix: int, sources: list[int], destinations: list[int]) -> None:
    metric = np.random.default_rng(0).normal(size=(tokens, 4))
    matching = match(metric, prefix, r=0)
    assert matching.kept == sources
    assert matching.destinations == destinations
    assert matching.matched == []

    most = cap(tokens, prefix)
    assert most <= len(sources)
    x = np.arange(tokens, dtype=float)[:, None]
    for r in range(1, most + 1):
        matching = match(metric, prefix, r)
        pruned, _ = apply_matching(x, matching, "prune", prefix, None)
        assert pruned[:, 0].tolist() == [*range(prefix), *matching.kept, *destinations]
    for r in (-1, most + 1):
        with pytest.raises(ValueError, match="is not in"):
            match(metric, prefix, r)


def test_margin_is_the_smallest_gap_that_matters() -> None:
    # r = 1 takes 4 (1.0) before 0 and 2 (0.8); 4 prefers 1 (1.0) to 3 (0).
    assert margin(match(COMPASS, 0, 1)) == pytest.approx(0.2)
    # r = 3 leaves no source behind; 0 and 2 each prefer their first destination by 0.2.
    assert margin(match(COMPASS, 0, 3)) == pytest.approx(0.2)
    assert margin(match(COMPASS, 0, 0)) == math.inf


@pytest.mark.parametrize("method", METHODS)
def test_nothing_removed_is_the_identity(method: str) -> None:
    x, sizes = fuse(TOKENS[None], COMPASS[None], prefix=1, r=0, method=method, sizes=SIZES[None])
    assert_array_equal(x[0], TOKENS)
    assert_array_equal(sizes[0], SIZES)


def test_unmatched_destinations_and_prefix_are_exact() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(13, 5))
    matching = match(rng.normal(size=(13, 4)), prefix=2, r=3)
    hit = {destination for _, destination in matching.matched}
    for method in METHODS:
        out, _ = apply_matching(x, matching, method, 2, np.ones(13))
        assert_array_equal(out[: 2 + len(matching.kept)], x[[0, 1, *matching.kept]])
        for row, destination in enumerate(matching.destinations, start=2 + len(matching.kept)):
            if destination not in hit or method == "prune":
                assert_array_equal(out[row], x[destination])


# --- The whole model ---------------------------------------------------------------------------------------------

MODELS = {
    "test_vit": ("test_vit", {}, {}),
    "test_vit2": ("test_vit2", {}, {}),
    "test_vit3": ("test_vit3", {}, {"pool_prefix": True}),
    "test_vit3-avg": ("test_vit3", {"global_pool": "avg", "pool_include_prefix": False}, {}),
    "qk_norm": ("test_vit", {"qk_norm": True, "init_values": 1e-5}, {}),
    "registers": ("test_vit", {"reg_tokens": 4, "no_embed_class": True, "init_values": 1e-5}, {}),
    "norm_pre": ("test_vit", {"pre_norm": True, "qkv_bias": False}, {}),
    "cls-avg": ("test_vit", {"global_pool": "avg"}, {}),
    "cls-avg-prefix": ("test_vit", {"global_pool": "avg", "pool_include_prefix": True}, {"pool_prefix": True}),
    "distilled": ("deit_tiny_distilled_patch16_224", {"embed_dim": 32, "depth": 3, "num_heads": 2}, {}),
}


def _model(name: str) -> tuple[torch.nn.Module, dict[str, np.ndarray], dict[str, object]]:
    """A timm model in float64 where every weight matters, its weights, and the oracle's arguments."""
    timm_name, kwargs, options = MODELS[name]
    torch.manual_seed(0)
    model = timm.create_model(timm_name, pretrained=False, img_size=64, num_classes=11, **kwargs).double().eval()
    make_all_weights_matter(model)
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    heads = model.blocks[0].attn.num_heads
    return model, state, {"patch": 16, "heads": heads, "prefix": model.num_prefix_tokens, **options}


@pytest.mark.parametrize("name", MODELS)
def test_unreduced_model_is_timm(name: str) -> None:
    model, state, options = _model(name)
    image = np.random.default_rng(0).normal(size=(2, 3, 64, 64))
    with torch.no_grad():
        expected = model(torch.from_numpy(image)).numpy()
    actual = vit_forward(state, image, layers=[("none", 0)] * len(model.blocks), **options)
    assert actual.shape == expected.shape == (2, 11)
    assert np.abs(expected).max() > 0.1
    assert_allclose(actual, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("prop_attn", [False, True])
@pytest.mark.parametrize(
    ("name", "pattern"),
    [("test_vit", method) for method in METHODS]
    + [(name, "mixed") for name in ("test_vit", "test_vit2", "qk_norm", "registers", "distilled")],
)
def test_reduced_model_is_timm_with_the_reduction_between(name: str, pattern: str, prop_attn: bool) -> None:
    """timm's own sub-modules, called one by one with `fuse` between attention and MLP."""
    model, state, options = _model(name)
    prefix = model.num_prefix_tokens
    mixed = ("prune", "none", "mlerp", "average", "tome", "prune", "mlerp", "none")
    methods = mixed if pattern == "mixed" else (pattern,) * 8
    layers, tokens = [], 16 + prefix
    for index in range(len(model.blocks)):
        r = 0 if methods[index] == "none" else min((3, 2, 0, 1, 2, 1, 2, 1)[index], cap(tokens, prefix))
        layers.append((methods[index], r))
        tokens -= r
    image = np.random.default_rng(2).normal(size=(2, 3, 64, 64))

    with torch.no_grad():
        x = model.norm_pre(model._pos_embed(model.patch_embed(torch.from_numpy(image))))
        sizes = np.ones(x.shape[:2])
        for block, (method, r) in zip(model.blocks, layers, strict=True):
            attn, normed = block.attn, block.norm1(x)
            keys = attn.qkv(normed).unflatten(-1, (3, attn.num_heads, -1))[:, :, 1]
            metric = attn.k_norm(keys).mean(2).numpy()
            bias = torch.from_numpy(np.log(sizes))[:, None, None, :] if prop_attn else None
            x = x + block.ls1(attn(normed, attn_mask=bias))
            if r:
                reduced, sizes = fuse(x.numpy(), metric, prefix=prefix, r=r, method=method, sizes=sizes)
                x = torch.from_numpy(reduced)
            x = x + block.ls2(block.mlp(block.norm2(x)))
        expected = model.forward_head(model.norm(x)).numpy()

    trace: list = []
    actual = vit_forward(state, image, layers=layers, prop_attn=prop_attn, trace=trace, **options)
    assert_allclose(actual, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())
    assert [len(images) for images in trace] == [2] * sum(r > 0 for _, r in layers)
    assert [len(images[0].matched) for images in trace] == [r for _, r in layers if r > 0]


def test_unknown_weights_are_refused() -> None:
    _, state, options = _model("test_vit")
    state["blocks.0.attn.gate.weight"] = np.ones((64, 64))
    with pytest.raises(ValueError, match=r"blocks\.0\.attn\.gate\.weight"):
        vit_forward(state, np.zeros((1, 3, 64, 64)), layers=[("none", 0)] * 6, **options)


@pytest.mark.parametrize(("change", "message"), [({"prefix": 2}, "prefix tokens"), ({"layers": []}, "blocks")])
def test_wrong_descriptions_are_refused(change: dict, message: str) -> None:
    _, state, options = _model("test_vit")
    with pytest.raises(ValueError, match=message):
        vit_forward(state, np.zeros((1, 3, 64, 64)), **{"layers": [("none", 0)] * 6, **options, **change})
