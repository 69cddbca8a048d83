"""Tokens that halt, hidden or with places for those at work, against an oracle that has no mask."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn

from tests import families, reference_halting, tiny
from tests.reference_halting import Gate, Run
from tofu_export import patch
from tofu_export.errors import OptionError, UnsupportedModelError
from tofu_export.options import Halting, HaltingOptions, OutputKind, Reduction, Selection
from tofu_export.patch.capacity import measure_leaving, working_tokens
from tofu_export.patch.halting import Spending
from tofu_export.patch.matching import Matching, Scores

GATE = Halting(3, 1, 0.2)
DECIDABLE = 1e-5
"""Margin from which budgets in float32 cannot turn a decision."""
IMAGES = 3


def reduction(*r: int, gate: Halting = GATE) -> Reduction:
    return Reduction(r=r or 0, select=Selection.HALTING, halting=HaltingOptions.of(gate))


def pixels(count: int = IMAGES) -> Tensor:
    return torch.from_numpy(tiny.pixels(count))


def oracle(name: str, *r: int, gate: Halting = GATE, seed: int = 0) -> list[Run]:
    weights = tiny.weights(tiny.build(name))
    return [
        reference_halting.halting_forward(
            weights, image, patch=tiny.PATCH, heads=tiny.HEADS, gate=Gate(gate.scale, gate.center, gate.least),
            leaving=r or (0,) * tiny.DEPTH, prefix=tiny.MODELS[name].prefix,
        )
        for image in tiny.pixels(IMAGES, seed)
    ]  # fmt: skip


def run(name: str, *r: int, gate: Halting = GATE) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return patch.outputs_of(tiny.reduced(name, reduction(*r, gate=gate)), OutputKind.LOGITS, pixels())


@pytest.mark.parametrize("gate", [GATE, Halting(0.5, 0, 0.01), Halting(5, 4, 0.05)])
@pytest.mark.parametrize("name", ["cls", "distilled"])
def test_halted_tokens_are_as_good_as_gone(name: str, gate: Halting) -> None:
    expected = oracle(name, gate=gate)
    assert min(each.nearest for each in expected) > DECIDABLE, "choose another seed"
    (logits,) = run(name, gate=gate)
    for row, each in zip(logits, expected, strict=True):
        assert_allclose(row.double().numpy(), each.logits, rtol=0, atol=1e-5)


def test_the_gates_above_halt_some_and_not_all() -> None:
    active = [each.active for each in oracle("cls")]
    assert all(16 == first > second >= third > 0 for first, second, third in active)
    assert len(set(map(tuple, active))) == IMAGES


@pytest.mark.parametrize("r", [(0, 4, 3), (0, 3, 0), (0, 0, 4), (0, 6, 5)])
@pytest.mark.parametrize("name", ["cls", "distilled"])
def test_what_has_no_place_leaves_and_is_counted(name: str, r: tuple[int, ...]) -> None:
    expected = oracle(name, *r)
    logits, over = run(name, *r)
    assert over.dtype == torch.int64
    compared = 0
    for row, count, each in zip(logits, over, expected, strict=True):
        if each.nearest > DECIDABLE:
            compared += 1
            assert int(count) == each.dropped
            assert_allclose(row.double().numpy(), each.logits, rtol=0, atol=1e-5)
    assert compared
    assert sum(r) < 7 or all(each.dropped for each in expected)


def test_places_for_all_at_work_change_nothing() -> None:
    masked = tiny.reduced("cls", reduction())
    working = working_tokens(masked, pixels(), 1, 17)
    assert working.tolist() == [each.active for each in oracle("cls")]
    leaving = measure_leaving(masked, pixels())
    assert leaving[0] == 0
    assert sum(leaving) > 0
    logits, over = run("cls", *leaving)
    assert over.tolist() == [0] * IMAGES
    torch.testing.assert_close(logits, run("cls")[0], rtol=0, atol=1e-5)
    assert sum(measure_leaving(masked, pixels(), 0.4)) > sum(leaving)


def test_places_are_measured_while_no_token_leaves() -> None:
    for model in (tiny.build("cls"), tiny.reduced("cls", reduction(0, 2, 2)), tiny.reduced("cls", Reduction(r=0))):
        with pytest.raises(OptionError, match="while no token leaves"):
            measure_leaving(model, pixels())
    with pytest.raises(OptionError, match="there are none"):
        measure_leaving(tiny.reduced("cls", reduction()), pixels(0))


def test_a_gate_that_nothing_passes_leaves_the_last_block_alone() -> None:
    with torch.no_grad():
        expected = tiny.build("cls")(pixels())
    (logits,) = run("cls", gate=Halting(1, 1e6))
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


def test_removing_it_restores_the_model_bit_for_bit() -> None:
    model = tiny.build("cls")
    with torch.no_grad():
        expected = model(pixels())
        patch.apply(model, tiny.plan_of("cls", reduction(0, 4, 3)))
        assert not torch.equal(model(pixels()), expected)
        assert torch.equal(patch.remove(model)(pixels()), expected)


def test_half_precision_keeps_budgets_in_float32() -> None:
    watch = Watch()
    model = tiny.reduced("cls", reduction(0, 4, 3)).half()
    with torch.no_grad(), patch.observe(watch):
        out = model(pixels().half())
    assert out.dtype == torch.float16
    assert [seen.after.dtype for seen in watch.seen] == [torch.float32] * 2
    assert [tuple(seen.after.shape) for seen in watch.seen] == [(IMAGES, 17, 1), (IMAGES, 13, 1)]


class Watch:
    """Sees budgets, and turns them into what is asked for."""

    def __init__(self, after: Tensor | None = None) -> None:
        self.after = after
        self.seen: list[Spending] = []

    def decide(self, _layer: int, _scores: Scores, proposed: Matching) -> Matching:
        return proposed

    def spend(self, _layer: int, proposed: Spending) -> Tensor:
        self.seen.append(proposed)
        return proposed.after if self.after is None else self.after


def test_an_observer_decides_who_halts() -> None:
    model, images = tiny.reduced("cls", reduction()), pixels()
    nothing = torch.zeros(IMAGES, 17, 1)
    with torch.no_grad(), patch.observe(Watch(nothing)):
        out = model(images)
    stop = Halting(1, -1e6)  # all spend their whole budget on the first block
    torch.testing.assert_close(out, run("cls", gate=stop)[0])


def test_scores_have_gradients() -> None:
    model = tiny.reduced("cls", reduction()).requires_grad_(True)
    watch = Watch()
    with patch.observe(watch):
        model(pixels())
    watch.seen[0].score.mean().backward()  # type: ignore[no-untyped-call]
    gradient: Any = model.get_parameter("blocks.0.mlp.fc2.bias").grad
    assert gradient is not None
    assert (gradient != 0).tolist() == [True] + [False] * 23  # the first channel alone


def test_without_halting_nobody_asks_an_observer() -> None:
    watch = Watch()
    with torch.no_grad(), patch.observe(watch):
        tiny.reduced("cls", Reduction(r=2))(pixels())
    assert not watch.seen


@pytest.mark.parametrize("name", ["cls-avg", "fc-norm", "pool-prefix"])
def test_models_that_pool_other_tokens_are_refused(name: str) -> None:
    with pytest.raises(UnsupportedModelError, match="pools by 'avg', but of tokens that halt only the class token"):
        tiny.reduced(name, reduction())


@pytest.mark.parametrize("name", ["relpos-table", "naflex", "diff", "post-norm"])
def test_families_with_a_class_token_halt(name: str) -> None:
    """Places for all at work change nothing, whatever depends on positions."""
    with torch.no_grad():
        masked = families.reduced(name, reduction())
        expected = masked(pixels())
        leaving = measure_leaving(masked, pixels())
        assert sum(leaving) > 0
        torch.testing.assert_close(families.reduced(name, reduction(*leaving))(pixels()), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", [OutputKind.TOKENS, OutputKind.GRID])
def test_other_tokens_have_no_output(kind: OutputKind) -> None:
    with pytest.raises(UnsupportedModelError, match=f"has no {kind.value} to give"):
        patch.choose_output(tiny.reduced("cls", reduction()), kind)


@pytest.mark.e2e
@pytest.mark.parametrize("r", [(), (0, 4, 3)], ids=["masked", "places"])
def test_it_compiles_to_one_graph(r: tuple[int, ...]) -> None:
    model = tiny.reduced("cls", reduction(*r))
    with torch.inference_mode():
        expected = model(pixels())
        got = torch.compile(model, backend="eager", fullgraph=True, dynamic=False)(pixels())
    torch._dynamo.reset()
    assert torch.equal(got, expected)


def test_features_and_maps_follow() -> None:
    model = tiny.reduced("cls", reduction(0, 4, 3))
    with torch.no_grad():
        features, over, groups = patch.outputs_of(model, OutputKind.FEATURES, pixels(), token_map=True)
        logits = model(pixels())
    assert patch.output_names(model, OutputKind.FEATURES, token_map=True) == (
        "features", "tokens_over_capacity", "patch_groups",
    )  # fmt: skip
    head: Any = model.get_submodule("head")
    assert isinstance(head, nn.Linear)
    torch.testing.assert_close(head(features), logits)
    assert over.shape == (IMAGES,)
    assert (groups >= 0).sum(dim=1).tolist() == [16 - 7] * IMAGES
