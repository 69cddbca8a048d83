"""Patching: nothing removed is the identity, anything can be undone, the unknown is refused, the rest is the oracle."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.testing import assert_allclose
from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from tests import reference, tiny
from tofu_export import patch
from tofu_export.errors import TofuError, UnsupportedModelError
from tofu_export.options import Method, Mode, PrunedSizes, Reduction
from tofu_export.patch.blocks import BlockAdapter, adapter_for
from tofu_export.patch.describe import describe
from tofu_export.planning.plan import LayerPlan, Plan, make_plan

apply_module = importlib.import_module("tofu_export.patch.apply")  # `patch.apply` is the function

NOTHING = Reduction(r=0)
SOME = Reduction(r=(3, 2, 4), pattern="PAM")


def images(count: int = 2, seed: int = 0) -> Tensor:
    return torch.from_numpy(tiny.pixels(count, seed))


def run(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


def snapshot(model: nn.Module) -> dict[str, tuple[type, dict[str, Any]]]:
    """Class and attributes of every module, shallow: `untouched` compares them by identity."""
    return {name: (type(module), dict(module.__dict__)) for name, module in model.named_modules()}


def untouched(model: nn.Module, before: dict[str, tuple[type, dict[str, Any]]]) -> bool:
    now = snapshot(model)
    return now.keys() == before.keys() and all(
        now[name][0] is kind
        and now[name][1].keys() == attributes.keys()
        and all(now[name][1][key] is value for key, value in attributes.items())
        for name, (kind, attributes) in before.items()
    )


# --- Nothing removed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny.MODELS)
def test_r_0_is_the_identity_bit_for_bit(name: str) -> None:
    model = tiny.build(name)
    expected = run(model, images())
    patched = tiny.reduced(name, NOTHING)
    assert patch.applied_plan(patched) == tiny.plan_of(name, NOTHING)
    assert all(type(block) is not Block for block in patched.blocks)
    assert torch.equal(run(patched, images()), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["registers", "qk-norm"])
def test_r_0_is_the_identity_in_other_precisions(name: str, dtype: torch.dtype) -> None:
    model = tiny.build(name).to(dtype)
    expected = run(model, images().to(dtype))
    patch.apply(model, tiny.plan_of(name, NOTHING))
    assert torch.equal(run(model, images().to(dtype)), expected)


def test_r_0_is_the_identity_with_fused_attention_switched_off() -> None:
    model = tiny.build("cls")
    for block in model.blocks:
        block.attn.fused_attn = False
    expected = run(model, images())
    patch.apply(model, tiny.plan_of("cls", NOTHING))
    assert torch.equal(run(model, images()), expected)


@pytest.mark.parametrize(
    "reduction", [Reduction(r=9, pattern="---"), Reduction(r=0, mode=Mode.TOME), Reduction(r=0, prop_attn=True)]
)
def test_other_ways_to_remove_nothing(reduction: Reduction) -> None:
    assert torch.equal(run(tiny.reduced("cls", reduction), images()), run(tiny.build("cls"), images()))


def test_features_are_unchanged_too() -> None:
    model, patched = tiny.build("cls"), tiny.reduced("cls", NOTHING)
    with torch.no_grad():
        assert torch.equal(patched.forward_features(images()), model.forward_features(images()))


# --- In and out --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", [NOTHING, SOME, Reduction(r=2, mode=Mode.TOME)])
@pytest.mark.parametrize("name", ["cls", "distilled", "registers"])
def test_remove_leaves_no_trace(name: str, reduction: Reduction) -> None:
    model = tiny.build(name)
    model.blocks[1].attn.fused_attn = False
    expected = run(model, images())
    before = snapshot(model)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    patch.apply(model, tiny.plan_of(name, reduction))
    run(model, images())
    assert not untouched(model, before)
    assert patch.remove(model) is model
    assert untouched(model, before)
    assert patch.applied_plan(model) is None
    assert torch.equal(run(model, images()), expected)
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_remove_does_nothing_to_other_models() -> None:
    for model in (tiny.build("cls"), nn.Linear(2, 2)):
        before = snapshot(model)
        patch.remove(model)
        assert untouched(model, before)
        assert patch.applied_plan(model) is None


def test_applying_twice_is_applying_once() -> None:
    plan = tiny.plan_of("cls", SOME)
    model = tiny.build("cls")
    original = snapshot(model)
    patch.apply(model, plan)
    once = snapshot(model)
    assert patch.apply(model, plan) is model
    assert untouched(model, once)
    patch.remove(model)
    assert untouched(model, original)


def test_another_plan_takes_the_place_of_the_first() -> None:
    other = Reduction(r=2, mode=Mode.TOME)
    model = tiny.build("cls")
    before = snapshot(model)
    patch.apply(model, tiny.plan_of("cls", SOME))
    patch.apply(model, tiny.plan_of("cls", other))
    assert patch.applied_plan(model) == tiny.plan_of("cls", other)
    assert torch.equal(run(model, images()), run(tiny.reduced("cls", other), images()))
    patch.remove(model)
    assert untouched(model, before)


def test_classes_names_and_weights_stay() -> None:
    model = tiny.build("registers")
    keys = list(model.state_dict())
    parameters = {name: id(weight) for name, weight in model.named_parameters()}
    kind = type(model)
    patch.apply(model, tiny.plan_of("registers", SOME))
    assert isinstance(model, kind)
    assert all(isinstance(block, Block) for block in model.blocks)
    assert list(model.state_dict()) == keys
    assert {name: id(weight) for name, weight in model.named_parameters()} == parameters
    assert "Fused" in type(model).__name__
    model.load_state_dict(tiny.build("registers").state_dict())


def test_two_models_have_plans_of_their_own() -> None:
    first, second = tiny.reduced("cls", SOME), tiny.reduced("cls", NOTHING)
    expected = run(first, images())
    assert type(first) is type(second)
    patch.remove(second)
    assert torch.equal(run(first, images()), expected)


def test_a_deep_copy_is_a_reduced_model_of_its_own() -> None:
    model = tiny.reduced("cls", SOME)
    expected = run(model, images())
    twin = copy.deepcopy(model)
    assert patch.applied_plan(twin) == patch.applied_plan(model)
    assert torch.equal(run(twin, images()), expected)
    patch.remove(model)
    assert torch.equal(run(twin, images()), expected)
    assert patch.applied_plan(twin) is not None
    patch.remove(twin)
    assert torch.equal(run(twin, images()), run(tiny.build("cls"), images()))


def test_apply_leaves_random_state_modes_and_gradients_alone() -> None:
    model = tiny.build("cls").requires_grad_(True).train()
    model.blocks[0].mlp.eval()
    model.blocks[2].eval()
    modes = {name: module.training for name, module in model.named_modules()}
    state = torch.get_rng_state()
    patch.apply(model, tiny.plan_of("cls", SOME))
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(weight.grad is None for weight in model.parameters())


def test_a_reduced_model_can_be_trained() -> None:
    model = tiny.reduced("cls", Reduction(r=2, mode=Mode.TOME)).requires_grad_(True).train()
    model(images()).sum().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None and bool(torch.isfinite(weight.grad).all()), name
    assert all(bool((block.attn.qkv.weight.grad != 0).any()) for block in model.blocks)


# --- Failures leave nothing behind -------------------------------------------------------------------------------


def break_block(monkeypatch: pytest.MonkeyPatch, index: int, model: nn.Module) -> None:
    """Make the adapter of one block compute something else."""
    bad = model.blocks[index]

    def other(block: nn.Module) -> BlockAdapter | None:
        adapter = adapter_for(block)
        if block is not bad or adapter is None:
            return adapter
        return BlockAdapter(adapter.kind, adapter.attend, lambda _block, x: x, adapter.feed_modules)

    monkeypatch.setattr(apply_module, "adapter_for", other)


@pytest.mark.parametrize("index", range(tiny.DEPTH))
def test_a_failure_half_way_leaves_the_model_untouched(index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.build("cls")
    before = snapshot(model)
    break_block(monkeypatch, index, model)
    with pytest.raises(UnsupportedModelError, match=rf"block {index} \(Block\)"):
        patch.apply(model, tiny.plan_of("cls", SOME), name="my model")
    assert untouched(model, before)


def test_an_interrupt_half_way_leaves_the_model_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.build("cls")
    before = snapshot(model)
    calls = []

    def interrupt(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(apply_module, "_check_block", interrupt)
    with pytest.raises(KeyboardInterrupt):
        patch.apply(model, tiny.plan_of("cls", SOME))
    assert untouched(model, before)


@pytest.mark.parametrize("break_it", [True, False])
def test_a_failing_second_plan_leaves_the_first(break_it: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`apply` promises: if anything fails, the model is as it was. It was reduced."""
    model = tiny.reduced("cls", SOME)
    before = snapshot(model)
    if break_it:
        break_block(monkeypatch, 1, model)
        plan = tiny.plan_of("cls", NOTHING)
    else:
        plan = tiny.plan_of("registers", NOTHING)
    with pytest.raises((UnsupportedModelError, ValueError)):
        patch.apply(model, plan)
    assert patch.applied_plan(model) == tiny.plan_of("cls", SOME)
    assert {name: kind for name, (kind, _) in snapshot(model).items()} == {
        name: kind for name, (kind, _) in before.items()
    }


@pytest.mark.parametrize(("other", "message"), [("registers", "5 prefix tokens"), ("avg", "0 prefix tokens")])
def test_a_plan_for_another_prefix_is_refused(other: str, message: str) -> None:
    model = tiny.build("cls")
    before = snapshot(model)
    with pytest.raises(ValueError, match=message):
        patch.apply(model, tiny.plan_of(other, SOME))
    assert untouched(model, before)


@pytest.mark.parametrize("depth", [2, 4])
def test_a_plan_for_another_depth_is_refused(depth: int) -> None:
    model = tiny.build("cls", depth=depth)
    before = snapshot(model)
    with pytest.raises(ValueError, match=rf"for 3 blocks.*has {depth}"):
        patch.apply(model, tiny.plan_of("cls", SOME))
    assert untouched(model, before)


# --- What is refused ---------------------------------------------------------------------------------------------


def meta(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return make().eval()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: meta(lambda: timm.create_model("xcit_nano_12_p16_224")), "Xcit.*convolves over the token grid"),
        (lambda: meta(lambda: timm.create_model("samvit_base_patch16")), "SAM.*windows of the token grid"),
        (lambda: meta(lambda: timm.create_model("volo_d1_224")), "VOLO.*outlook attention"),
        (lambda: meta(lambda: timm.create_model("tnt_s_patch16_224")), "TNT.*sequence of pixels"),
        (lambda: meta(lambda: timm.create_model("convit_tiny")), "ConVit.*position gate"),
        (lambda: meta(lambda: timm.create_model("swin_tiny_patch4_window7_224")), "SwinTransformer"),
        (lambda: meta(lambda: timm.create_model("resnet18")), "ResNet"),
        (lambda: nn.Linear(2, 2), "Linear"),
    ],
    ids=["xcit", "sam", "volo", "tnt", "convit", "swin", "resnet", "linear"],
)
def test_other_architectures_are_refused_by_name(make: Callable[[], nn.Module], message: str) -> None:
    model = make()
    before = snapshot(model)
    for attempt in (
        lambda: patch.apply(model, tiny.plan_of("cls", SOME), name="this one"),
        lambda: describe(model, "this one"),
    ):
        with pytest.raises(UnsupportedModelError, match=message) as error:
            attempt()
        assert "this one" in str(error.value)
        assert isinstance(error.value, NotImplementedError)
    assert untouched(model, before)


def test_one_odd_block_among_others_is_refused() -> None:
    class Mine(Attention):
        """Computes who knows what."""

    model = tiny.build("cls")
    model.blocks[1].attn = Mine(24, num_heads=3)
    with pytest.raises(UnsupportedModelError, match="block 1 uses Mine"):
        patch.apply(model, tiny.plan_of("cls", SOME))


def test_checkpointing_is_refused() -> None:
    model = tiny.build("cls")
    model.set_grad_checkpointing(True)
    with pytest.raises(UnsupportedModelError, match="set_grad_checkpointing"):
        patch.apply(model, tiny.plan_of("cls", SOME))


@pytest.mark.parametrize("reduction", [SOME, Reduction(r=2, mode=Mode.TOME)])
def test_checkpointing_switched_on_later_is_refused_or_right(reduction: Reduction) -> None:
    model = tiny.reduced("cls", reduction)
    expected = run(model, images())
    try:
        model.set_grad_checkpointing(True)
        got = model(images().requires_grad_(True))
    except TofuError:
        return
    assert_allclose(got.detach().numpy(), expected.numpy(), rtol=1e-5, atol=1e-5)


def test_an_attention_mask_is_refused() -> None:
    model = tiny.reduced("cls", SOME)
    with pytest.raises(UnsupportedModelError, match="attention mask"):
        model(images(), attn_mask=torch.zeros(2, 1, 17, 17))
    with pytest.raises(UnsupportedModelError, match="attention mask"):
        model(images(), is_causal=True)


def test_intermediate_grids_are_refused() -> None:
    model = tiny.reduced("cls", SOME)
    for method in (model.forward_intermediates, model.get_intermediate_layers):
        with pytest.raises(UnsupportedModelError, match="remove"):
            method(images(), 1)
    patch.remove(model)
    assert len(model.get_intermediate_layers(images(), 1)) == 1


@pytest.mark.parametrize("side", [24, 40])
def test_another_image_size_is_refused_in_words(side: int) -> None:
    model = tiny.reduced("cls", SOME, dynamic_img_size=True)
    patches = (side // tiny.PATCH) ** 2
    with pytest.raises(ValueError, match=rf"{patches + 1} tokens, the plan says 17.*new plan for this image size"):
        run(model, torch.zeros(1, 3, side, side))


def test_a_plan_for_another_image_size_serves_it() -> None:
    spec = describe(meta(lambda: tiny.build("cls", dynamic_img_size=True)), "cls", (40, 24))
    assert spec.tokens == 16
    model = patch.apply(tiny.build("cls", dynamic_img_size=True), make_plan(spec, SOME))
    assert run(model, torch.ones(1, 3, 40, 24)).shape == (1, tiny.CLASSES)


def test_tokens_dropped_in_training_are_refused() -> None:
    model = tiny.reduced("cls", SOME, patch_drop_rate=0.5)
    run(model, images())
    model.train()
    with pytest.raises(ValueError, match="9 tokens, the plan says 17"):
        run(model, images())


# --- Upstream changed --------------------------------------------------------------------------------------------


def test_a_subclass_of_a_known_block_is_refused() -> None:
    class Block(timm.models.vision_transformer.Block):
        """Same name, another class."""

    with pytest.raises(UnsupportedModelError, match="block 0 is a Block"):
        patch.apply(tiny.build("cls", block_fn=Block), tiny.plan_of("cls", SOME))


def test_a_subclass_of_a_known_model_is_refused() -> None:
    model = tiny.build("cls")
    model.__class__ = type("Mine", (type(model),), {})
    with pytest.raises(UnsupportedModelError, match="is a Mine"):
        patch.apply(model, tiny.plan_of("cls", SOME))


def test_an_upstream_block_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = Block.forward

    def changed(self: Block, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return forward(self, x, *args, **kwargs) + 1e-6 * x

    monkeypatch.setattr(Block, "forward", changed)
    model = tiny.build("cls")
    before = snapshot(model)
    with pytest.raises(UnsupportedModelError, match=r"block 0 \(Block\) does not compute what its adapter expects"):
        patch.apply(model, tiny.plan_of("cls", SOME))
    assert untouched(model, before)


@pytest.mark.parametrize("index", [0, tiny.DEPTH - 1])
def test_a_forward_set_on_one_block_is_refused(index: int) -> None:
    """It hides the class's: the block would go on without its reduction, whatever it computes."""
    model = tiny.build("cls")
    block = model.blocks[index]
    original = block.forward
    block.forward = lambda x, *args, **kwargs: original(x, *args, **kwargs)
    with pytest.raises(UnsupportedModelError, match=f"block {index}"):
        patch.apply(model, tiny.plan_of("cls", SOME))


def test_attention_that_is_not_called_as_expected_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are read off one call to the fused attention; none or two of them would be the wrong keys."""
    kind = type(tiny.build("cls").blocks[0].attn)
    forward = kind.forward

    def by_hand(self: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        self.fused_attn = False
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(kind, "forward", by_hand)
    model = tiny.reduced("cls", SOME)
    with pytest.raises(UnsupportedModelError, match="0 times"):
        run(model, images())


# --- The whole model against the oracle --------------------------------------------------------------------------

DECIDABLE = 1e-5
"""Similarity margin from which rounding in float32 (some 1e-6 after 3 blocks) cannot flip a decision."""

AMOUNTS = (3, 2, 4)


def oracle_layers(plan: Plan) -> list[tuple[str, int]]:
    def entry(layer: LayerPlan) -> tuple[str, int]:
        return (layer.method.word, layer.removed)

    return [entry(layer) for layer in plan.layers]


def check_against_oracle(name: str, reduction: Reduction, batch: int = 2, seed: int = 0) -> None:
    plan = tiny.plan_of(name, reduction)
    model = tiny.build(name)
    state = tiny.weights(model)
    trace: list[list[reference.Matching]] = []
    expected = reference.vit_forward(
        state,
        tiny.pixels(batch, seed),
        patch=tiny.PATCH,
        heads=tiny.HEADS,
        layers=oracle_layers(plan),
        prefix=tiny.MODELS[name].prefix,
        prop_attn=plan.prop_attn,
        takes_over=plan.reduction.pruned_sizes is PrunedSizes.TAKE_OVER,
        trace=trace,
        **tiny.MODELS[name].oracle,
    )
    assert [len(matchings[0].matched) for matchings in trace] == [
        layer.removed for layer in plan.layers if layer.removed
    ]
    margin = min(reference.margin(matching) for matchings in trace for matching in matchings)
    assert margin > DECIDABLE, "choose another seed"
    scale = np.abs(expected).max()
    assert scale > 0.1
    patch.apply(model, plan)
    x = images(batch, seed)
    assert_allclose(run(model, x).numpy(), expected, rtol=0, atol=1e-5 * scale)
    # In float64 only the logarithm of the sizes stays in float32.
    assert_allclose(run(model.double(), x.double()).numpy(), expected, rtol=0, atol=1e-7 * scale)
    full = reference.vit_forward(
        state,
        tiny.pixels(batch, seed),
        patch=tiny.PATCH,
        heads=tiny.HEADS,
        layers=[("none", 0)] * tiny.DEPTH,
        prefix=tiny.MODELS[name].prefix,
        **tiny.MODELS[name].oracle,
    )
    assert np.abs(full - expected).max() > 1e-3 * scale  # the reduction matters, so the comparison can tell


@pytest.mark.parametrize("prop_attn", [False, True])
@pytest.mark.parametrize("method", [Method.named(name) for name in reference.METHODS])
@pytest.mark.parametrize("name", ["cls", "avg", "registers"])
def test_every_method_is_the_oracle(name: str, method: Method, prop_attn: bool) -> None:
    check_against_oracle(name, Reduction(r=AMOUNTS, pattern=method.value * 3, prop_attn=prop_attn))


@pytest.mark.parametrize("name", tiny.MODELS)
def test_every_family_is_the_oracle(name: str) -> None:
    check_against_oracle(name, Reduction(r=AMOUNTS, pattern="PAM"))


@pytest.mark.parametrize("pattern", ["PMA", "AP-", "-MP", "TPM", "M-T", "PTA"])
@pytest.mark.parametrize("name", ["cls", "distilled"])
def test_hybrid_patterns_are_the_oracle(name: str, pattern: str) -> None:
    check_against_oracle(name, Reduction(r=AMOUNTS, pattern=pattern))


@pytest.mark.parametrize("pattern", ["PPM", "PTM"])
def test_lost_sizes_are_the_oracle(pattern: str) -> None:
    check_against_oracle("cls", Reduction(r=AMOUNTS, pattern=pattern, pruned_sizes=PrunedSizes.LOST))


@pytest.mark.parametrize("pattern", ["PPP", "MMM", "TTT", "AMP"])
@pytest.mark.parametrize("name", ["cls", "avg", "registers"])
def test_as_many_as_can_leave_is_the_oracle(name: str, pattern: str) -> None:
    """Every source leaves every layer, down to 2 or 3 unprotected tokens."""
    check_against_oracle(name, Reduction(r=100, pattern=pattern), seed=1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("reduction", [SOME, Reduction(r=AMOUNTS, mode=Mode.TOME)])
def test_half_precision_stays_half(reduction: Reduction, dtype: torch.dtype) -> None:
    model = tiny.reduced("registers", reduction).to(dtype)
    out = run(model, images().to(dtype))
    assert out.dtype == dtype
    assert bool(torch.isfinite(out).all())


def test_images_of_a_batch_do_not_meet() -> None:
    model = tiny.reduced("cls", SOME)
    x = images(5)
    together = run(model, x)
    for index in range(5):
        assert_allclose(run(model, x[index : index + 1]).numpy(), together[index : index + 1].numpy(), atol=1e-5)
