"""Trained predictors: against their oracles, alone and in whole models, and how they are told and put in place."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn

from tests import predictors, reference, reference_predictors, tiny
from tests.predictors import KINDS
from tofu_export import patch
from tofu_export.errors import UnsupportedModelError
from tofu_export.options import Method, PrunedSizes, Reduction, Selection
from tofu_export.patch.fuse import Step, fuse
from tofu_export.patch.predictors import DynamicPredictor, PredictorShape, SoftPredictor, attach, predictors_of
from tofu_export.patch.token_map import collect_token_map
from tofu_export.planning.trained import PredictorKind

SCORES = {
    PredictorKind.DYNAMICVIT: reference_predictors.dynamicvit_score,
    PredictorKind.SPVIT: reference_predictors.spvit_score,
}


def f64(tensor: Tensor) -> np.ndarray:
    return tensor.double().numpy()


def split(model: nn.Module) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The state dicts of a model and of its predictors."""
    state = tiny.weights(model)
    mine = {name: value for name, value in state.items() if name.startswith("score_predictor.")}
    return {name: value for name, value in state.items() if name not in mine}, mine


def kept_at(kind: PredictorKind, keep_rate: float) -> dict[int, int]:
    """Patches that stay before each block that reduces, without packages: the powers of the rate, rounded down."""
    return {1 + stage: int(16 * keep_rate ** (1 + stage)) for stage in range(predictors.COUNT)}


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_the_definitions(kind: PredictorKind) -> None:
    model = predictors.build(kind)
    x = torch.from_numpy(np.random.default_rng(3).normal(size=(2, 9, 24)).astype(np.float32))
    for stage in range(predictors.COUNT):
        got = model.score_predictor[stage](x)[..., 0]  # type: ignore[index, operator]
        assert got.dtype == torch.float32
        for image in range(2):
            expected = SCORES[kind](split(model)[1], stage, f64(x[image]))
            assert max(expected) - min(expected) > 0.05
            assert_allclose(f64(got[image]), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep_rate", [0.5, 0.6, 0.8])
def test_a_whole_model_is_the_definitions(kind: PredictorKind, keep_rate: float) -> None:
    asked = predictors.reduction(keep_rate)
    plan = predictors.plan_of(kind, asked)
    backbone, scorers = split(predictors.build(kind))
    with torch.no_grad():
        got = predictors.reduced(kind, asked)(torch.from_numpy(tiny.pixels(3)))
    expected = reference.vit_forward(
        backbone,
        tiny.pixels(3),
        patch=tiny.PATCH,
        heads=tiny.HEADS,
        layers=[("none", 0)] * tiny.DEPTH,
        enter=reference_predictors.staged(kind.value, scorers, kept_at(kind, keep_rate)),
    )
    assert sum(layer.removed for layer in plan.layers) > 3
    assert_allclose(f64(got), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_any_batch_size_has_the_same_tokens(kind: PredictorKind) -> None:
    model = predictors.reduced(kind, predictors.reduction())
    images = torch.from_numpy(tiny.pixels(4))
    with torch.no_grad():
        together = model(images)
        apart = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_masked_tokens_do_not_change_the_scores_of_others(kind: PredictorKind) -> None:
    """As training masks them, and a static keep rate removes them."""
    scorer = predictors.build(kind).score_predictor[0]  # type: ignore[index]
    x = torch.from_numpy(np.random.default_rng(4).normal(size=(2, 9, 24)).astype(np.float32))
    present = torch.tensor([1.0, 0, 1, 1, 0, 1, 1, 0, 1])[None, :, None].expand(2, -1, -1)
    with torch.no_grad():
        masked, removed = scorer(x, present), scorer(x[:, present[0, :, 0] > 0])  # type: ignore[operator]
    torch.testing.assert_close(masked[:, present[0, :, 0] > 0], removed, rtol=0, atol=1e-6)
    torch.testing.assert_close(masked.sum(dim=-1), torch.ones(2, 9))


@pytest.mark.e2e
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_with_predictors_compiles_to_one_graph(kind: PredictorKind) -> None:
    model, images = predictors.reduced(kind, predictors.reduction()), torch.from_numpy(tiny.pixels(2))
    with torch.inference_mode():
        expected = model(images)
        got = torch.compile(model, backend="eager", fullgraph=True, dynamic=False)(images)
    torch._dynamo.reset()
    assert torch.equal(got, expected)


def test_package_tokens_stay() -> None:
    """The second stage may not touch the package of the first, however low it is scored."""
    model = predictors.reduced(PredictorKind.SPVIT, predictors.reduction(0.5))
    with torch.no_grad():
        for weight in model.score_predictor[1].parameters():  # type: ignore[index]
            weight.zero_()  # all tokens are scored alike: the lower places leave
        with collect_token_map(groups=True) as found:
            model(torch.from_numpy(tiny.pixels(3)))
    assert found.groups is not None
    for image in found.groups[:, :, 0]:
        sizes = sorted(image[image > 0].bincount().tolist(), reverse=True)
        assert sizes[:2] == [8, 4]  # of 16 patches 8 leave; of the other 8 another 4
        assert found.tokens == 1 + 4 + 2


def test_the_predictor_of_a_layer_is_the_next_one_in_order() -> None:
    asked = Reduction(r=(4, 0, 3), select=Selection.PREDICTOR)
    plan = predictors.plan_of(PredictorKind.DYNAMICVIT, asked)
    assert plan.pattern == "P-P"
    model = predictors.build(PredictorKind.DYNAMICVIT)
    backbone, scorers = split(model)
    with torch.no_grad():
        got = patch.apply(model, plan)(torch.from_numpy(tiny.pixels(2)))
    expected = reference.vit_forward(
        backbone, tiny.pixels(2), patch=tiny.PATCH, heads=tiny.HEADS, layers=[("none", 0)] * tiny.DEPTH,
        enter=reference_predictors.staged("dynamicvit", scorers, {0: 12, 2: 9}),
    )  # fmt: skip
    assert_allclose(f64(got), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_enter_the_attention_only_if_asked_for(kind: PredictorKind) -> None:
    images = torch.from_numpy(tiny.pixels(2))
    with torch.no_grad():
        usual, off, on = (
            predictors.reduced(kind, predictors.reduction(prop_attn=prop))(images) for prop in (None, False, True)
        )
    assert torch.equal(usual, off)
    assert torch.equal(off, on) is (kind is PredictorKind.DYNAMICVIT)  # pruned tokens pass no size on


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_without_its_plan_is_the_backbone(kind: PredictorKind) -> None:
    images = torch.from_numpy(tiny.pixels(2))
    with torch.no_grad():
        expected = tiny.build("cls")(images)
        model = predictors.reduced(kind, predictors.reduction())
        assert not torch.equal(model(images), expected)
        assert torch.equal(patch.remove(model)(images), expected)


def test_a_copy_asks_its_own_predictors() -> None:
    model = predictors.reduced(PredictorKind.DYNAMICVIT, predictors.reduction())
    images = torch.from_numpy(tiny.pixels(2))
    with torch.no_grad():
        expected = model(images)
        other = copy.deepcopy(model)
        for weight in model.score_predictor.parameters():  # type: ignore[union-attr]
            weight.zero_()
        assert torch.equal(other(images), expected)
        assert not torch.equal(model(images), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_predictors_are_told_by_the_names_of_a_state_dict(kind: PredictorKind) -> None:
    model = predictors.build(kind)
    assert PredictorShape.read(model.state_dict()) == predictors.shape_of(kind)
    known = predictors_of(model)
    assert known is not None
    assert (known.kind, known.count) == (kind, predictors.COUNT)
    assert PredictorShape.read(tiny.build("cls").state_dict()) is None
    assert predictors_of(tiny.build("cls")) is None


def test_names_of_a_broken_state_dict_build_nothing_large() -> None:
    broken = {f"score_predictor.{10**9}.senet.0.weight": torch.ones(1)}
    assert PredictorShape.read(broken) == PredictorShape(PredictorKind.SPVIT, 1, 0)
    with pytest.raises(UnsupportedModelError, match="do not divide into 0 heads"):
        attach(tiny.build("cls"), PredictorShape(PredictorKind.SPVIT, 1, 0))


def test_an_attribute_of_another_kind_is_no_predictor() -> None:
    model = tiny.build("cls")
    for other in (nn.Linear(2, 2), nn.ModuleList([nn.Linear(2, 2)]), nn.ModuleList()):
        model.score_predictor = other
        assert predictors_of(model) is None


def test_costs_are_those_of_the_layers() -> None:
    wide = predictors_of(attach(tiny.build("cls"), PredictorShape(PredictorKind.DYNAMICVIT, 3)))
    assert wide is not None
    assert wide.macs_token == 5 * 24 + 24 * 24 + 24 * 12 + 12 * 6 + 6 * 2
    by_head = predictors_of(attach(tiny.build("cls"), PredictorShape(PredictorKind.SPVIT, 3, 3)))
    assert by_head is not None
    assert by_head.macs_token == 3 * (5 * 8 + 8 * 8 + 8 * 4 + 4 * 2 + 2 * 2) + 3 + 3


@pytest.mark.parametrize("name", ["distilled", "registers", "avg"])
def test_other_models_are_refused_by_name(name: str) -> None:
    with pytest.raises(UnsupportedModelError, match=r"this one cannot have the predictors of dynamicvit.*class token"):
        attach(tiny.build(name), PredictorShape(PredictorKind.DYNAMICVIT, 3), name="this one")


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="24 channels, which do not divide into 5 heads"):
        attach(tiny.build("cls"), PredictorShape(PredictorKind.SPVIT, 3, 5))


def test_a_plan_for_other_predictors_is_refused() -> None:
    plan = predictors.plan_of(PredictorKind.SPVIT, predictors.reduction())
    for model in (tiny.build("cls"), predictors.build(PredictorKind.DYNAMICVIT)):
        with pytest.raises(ValueError, match="predictors of spvit, which it does not have"):
            patch.apply(model, plan, name="it")
        assert patch.applied_plan(model) is None


def test_all_but_one_may_leave() -> None:
    x = torch.arange(8.0).reshape(1, 8, 1)
    scores = torch.tensor([[1.0, 0.2, 0.1, 0.9, 0.3, 0.4, 0.5, 0.6]])
    step = Step(Method.PRUNE, 6, 1, PrunedSizes.LOST, Selection.PREDICTOR)
    out, _ = fuse(x, None, step, importance=scores)
    assert out.flatten().tolist() == [0.0, 3.0]
    with pytest.raises(ValueError, match=r"cannot remove 7 of 8 tokens \(1 protected\), the most is 6"):
        fuse(x, None, replace(step, removed=7), importance=scores)


def test_modules_have_the_published_names() -> None:
    assert {name.rpartition(".")[0] for name in DynamicPredictor(8).state_dict()} == {
        "in_conv.0", "in_conv.1", "out_conv.0", "out_conv.2", "out_conv.4",
    }  # fmt: skip
    names = {name.rpartition(".")[0] for name in SoftPredictor(16, 2).state_dict()}
    parts = {"in_conv": (0, 1), "out_conv": (0, 2, 4)}
    by_head = {f"{part}.{head}.{layer}" for part, layers in parts.items() for head in (0, 1) for layer in layers}
    assert names == {"senet.0", "senet.2", *by_head}
