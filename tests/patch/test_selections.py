"""Selections beside bipartite matching: against their oracles, alone and in whole models, and what holds for all."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from torch import Tensor

from tests import families, reference, reference_selections, tiny
from tests.reference_selections import SELECTIONS
from tofu_export import patch
from tofu_export.errors import UnsupportedModelError
from tofu_export.options import Method, Mode, Reduction, Selection
from tofu_export.patch.fuse import Step, fuse
from tofu_export.planning.plan import removable

DEPTH = 4
DECIDABLE = 1e-6
"""Margin from which scores in float32 cannot turn a decision."""
KINDS = [Selection(kind) for kind in SELECTIONS]
METHODS = [Method.named(name) for name in reference.METHODS]

properties = settings(deadline=None, derandomize=True, max_examples=40)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def crowded(seed: int, *shape: int) -> Tensor:
    """Metrics with cosines on both sides of every margin."""
    return normal(seed, *shape) + 1.5 * normal(seed + 1, shape[0], 1, shape[2])


def attention(seed: int, batch: int, tokens: int) -> Tensor:
    return (2 * normal(seed, batch, tokens)).softmax(dim=-1)


def f64(tensor: Tensor) -> np.ndarray:
    return tensor.double().numpy()


@pytest.mark.parametrize("select", KINDS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
def test_one_reduction_is_the_definitions(select: Selection, method: Method, prefix: int) -> None:
    for tokens, layer in itertools.product((16, 17), (0, 3)):
        x, metric, seen = normal(1, 2, tokens, 8), crowded(20 + layer, 2, tokens, 6), attention(3, 2, tokens)
        sizes = torch.from_numpy(np.random.default_rng(4).integers(1, 9, size=(2, tokens, 1)).astype(np.float32))
        for removed in (1, 3, removable(tokens, prefix)):
            out, out_sizes = fuse(
                x,
                metric,
                Step(method=method, removed=removed, prefix=prefix, select=select, layer=layer, depth=DEPTH),
                sizes=sizes,
                track_sizes=True,
                importance=seen if select.reads_class_attention else None,
            )
            assert out_sizes is not None
            for image in range(2):
                given_ = (select.value, f64(metric[image]), f64(seen[image]), prefix, removed, layer, DEPTH)
                assert reference_selections.margin(*given_) > DECIDABLE, "choose another seed"
                choose = reference_selections.chooser(select.value, DEPTH)
                matching, weights = choose(f64(metric[image]), f64(seen[image]), prefix, removed, layer)
                expected, expected_sizes = reference.apply_matching(
                    f64(x[image]), matching, method.word, prefix, f64(sizes[image, :, 0]),
                    weights_one=weights,
                )  # fmt: skip
                assert_allclose(f64(out[image]), expected, rtol=0, atol=1e-5)
                assert_array_equal(f64(out_sizes[image, :, 0]), expected_sizes)
                hit = set() if method is Method.PRUNE else {target for _, target in matching.matched}
                single = [row for row, place in enumerate([*range(prefix), *matching.destinations]) if place not in hit]
                assert_array_equal(f64(out[image])[single], expected[single])


@pytest.mark.parametrize("select", KINDS)
@pytest.mark.parametrize("pattern", ["PAM", "TWA", "PPP"])
@pytest.mark.parametrize("model_name", ["cls", "registers"])
def test_a_whole_model_is_the_definitions(model_name: str, pattern: str, select: Selection) -> None:
    reduction = Reduction(r=(2, 3, 2), pattern=pattern, select=select)
    plan = tiny.plan_of(model_name, reduction)
    with torch.no_grad():
        got = tiny.reduced(model_name, reduction)(torch.from_numpy(tiny.pixels(2)))
    expected = reference.vit_forward(
        tiny.weights(tiny.build(model_name)),
        tiny.pixels(2),
        patch=tiny.PATCH,
        heads=tiny.HEADS,
        layers=[(layer.method.word, layer.removed) for layer in plan.layers],
        prefix=plan.prefix_tokens,
        prop_attn=plan.prop_attn,
        takes_over=select is not Selection.CLASS_ATTENTION,
        choose=reference_selections.chooser(select.value, tiny.DEPTH),
    )
    assert_allclose(f64(got), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("select", KINDS)
def test_nothing_to_remove_is_the_untouched_model(select: Selection) -> None:
    model, images = tiny.build("cls"), torch.from_numpy(tiny.pixels(2))
    with torch.no_grad():
        expected = model(images)
        assert torch.equal(tiny.reduced("cls", Reduction(r=0, select=select))(images), expected)


@properties
@given(
    st.sampled_from(KINDS), st.sampled_from(METHODS), st.integers(0, 5), st.integers(2, 24), st.integers(0, 10**6),
    st.data(),
)  # fmt: skip
def test_what_holds_for_every_selection(
    select: Selection, method: Method, prefix: int, patches: int, seed: int, data: st.DataObject
) -> None:
    tokens = prefix + patches
    removed = data.draw(st.integers(0, removable(tokens, prefix)))
    x, sizes = normal(seed, 2, tokens, 4), 1 + normal(seed + 1, 2, tokens, 1).abs()
    seen = attention(seed + 2, 2, tokens) if select.reads_class_attention else None
    out, left = fuse(
        x,
        crowded(seed + 3, 2, tokens, 4),
        Step(method=method, removed=removed, prefix=prefix, select=select, layer=1, depth=3),
        sizes=sizes,
        track_sizes=True,
        importance=seen,
    )
    assert out.shape == (2, tokens - removed, 4)
    assert left is not None
    assert torch.equal(out[:, :prefix], x[:, :prefix])
    torch.testing.assert_close(left.sum(1), sizes.sum(1))
    if method is Method.PRUNE:  # what comes out went in, in its order
        for before, after in zip(x, out, strict=True):
            places = [int((before == row).all(1).nonzero()[0, 0]) for row in after]
            assert places == sorted(set(places))
    if removed == 0:
        assert torch.equal(out, x)


def test_crowded_tokens_leave_and_lone_ones_are_protected() -> None:
    """Six tokens in a crowd, two alone: three of the crowd join the three others, however many are alike."""
    metric = torch.zeros(1, 9, 4)
    metric[0, [1, 2, 4, 5, 7, 8], 0] = 1.0
    metric[0, 3, 1] = metric[0, 6, 2] = 1.0
    out, sizes = fuse(
        metric,
        metric,
        Step(method=Method.AVERAGE, removed=3, prefix=1, select=Selection.ENERGY, depth=2),
        track_sizes=True,
    )
    assert torch.equal(out[0], metric[0, [0, 2, 3, 5, 6, 8]])
    assert sizes is not None
    assert sizes[0, :, 0].tolist() == [1, 4, 1, 1, 1, 1]  # all alike: the partner of highest rank is joined


def test_the_least_attended_become_one_token_by_their_attention() -> None:
    x = torch.arange(6.0).reshape(1, 6, 1) + 1
    seen = torch.tensor([[0.5, 0.3, 0.02, 0.1, 0.06, 0.02]])
    out, sizes = fuse(
        x,
        x,
        Step(method=Method.AVERAGE, removed=2, prefix=1, select=Selection.CLASS_ATTENTION),
        track_sizes=True,
        importance=seen,
    )
    expected = (3 * 0.02 + 6 * 0.02 + 5 * 0.06) / 0.1
    torch.testing.assert_close(out[0, :, 0], torch.tensor([1.0, 2.0, 4.0, expected]))
    assert sizes is not None
    assert sizes[0, :, 0].tolist() == [1, 1, 1, 3]


@pytest.mark.parametrize("name", ["avg", "map"])
def test_models_without_a_class_token_are_refused_by_name(name: str) -> None:
    with pytest.raises(UnsupportedModelError, match=r"has no class token.*--select energy"):
        tiny.plan_of(name, Reduction(r=2, select=Selection.CLASS_ATTENTION))


def test_registers_alone_are_no_class_token() -> None:
    model = tiny.build("registers", class_token=False, reg_tokens=5, global_pool="avg")
    plan = tiny.plan_of("registers", Reduction(r=2, select=Selection.CLASS_ATTENTION))
    with pytest.raises(UnsupportedModelError, match="has no class token"):
        patch.apply(model, plan)


def test_attention_must_be_given_where_it_is_read() -> None:
    x = torch.ones(1, 6, 2)
    with pytest.raises(ValueError, match="needs importance"):
        fuse(x, x, Step(method=Method.PRUNE, removed=1, prefix=1, select=Selection.CLASS_ATTENTION))


@pytest.mark.parametrize("name", ["eva-rope-cat", "relpos-shared", "diff", "parallel", "scaling", "beit", "naflex"])
@pytest.mark.parametrize("select", KINDS)
def test_families_run(name: str, select: Selection) -> None:
    with torch.no_grad():
        out = families.reduced(name, Reduction(r=3, mode=Mode.TOME, select=select))(torch.from_numpy(tiny.pixels(2)))
    assert torch.isfinite(out).all()
