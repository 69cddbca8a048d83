"""Every kind of block and of position: nothing removed is the identity, anything can be undone, companions travel."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from tests import families, tiny
from tests.families import FAMILIES
from tofu_export import patch
from tofu_export.errors import UnsupportedModelError
from tofu_export.options import Method, Mode, Reduction
from tofu_export.patch import fused
from tofu_export.patch.blocks import ADAPTERS, adapter_for
from tofu_export.patch.fuse import Step, Tracked, reduce_state
from tofu_export.patch.keys import ATTENTION_CALLS
from tofu_export.patch.observe import observe
from tofu_export.patch.state import TokenState
from tofu_export.patch.support import REFUSED
from tofu_export.planning.plan import make_plan

NOTHING = Reduction(r=0)
SOME = Reduction(r=(3, 2, 4), pattern="PAM")
PLACED = [name for name, family in FAMILIES.items() if family.placed]


def images(count: int = 2, seed: int = 0) -> Tensor:
    return torch.from_numpy(tiny.pixels(count, seed))


def run(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


def test_every_adapter_has_a_model_here() -> None:
    used = {type(block) for name in FAMILIES for block in families.build(name).blocks}
    assert {adapter.kind for adapter in ADAPTERS} - used == {ADAPTERS[0].kind} - used
    attentions = {
        type(attention)
        for name in FAMILIES
        for block in families.build(name).blocks
        for attention in adapter_for(block).attentions(block)
    }
    assert set(ATTENTION_CALLS) == attentions


@pytest.mark.parametrize("name", FAMILIES)
def test_r_0_is_the_identity_bit_for_bit(name: str) -> None:
    model = families.build(name)
    expected = run(model, images())
    kinds = {path: type(module) for path, module in model.named_modules()}
    patch.apply(model, make_plan(families.spec(name), NOTHING))
    assert all("Fused" in type(block).__name__ for block in model.blocks)
    assert torch.equal(run(model, images()), expected)
    patch.remove(model)
    assert {path: type(module) for path, module in model.named_modules()} == kinds


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_removed_can_be_brought_back(name: str) -> None:
    model = families.build(name)
    expected = run(model, images())
    reduced = run(patch.apply(model, make_plan(families.spec(name), SOME)), images())
    assert reduced.shape == expected.shape
    assert (reduced - expected).abs().max() > 1e-3
    assert torch.equal(run(patch.remove(model), images()), expected)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("reduction", [SOME, Reduction(r=3, mode=Mode.TOME)], ids=["hybrid", "tome"])
def test_images_of_a_batch_do_not_meet(name: str, reduction: Reduction) -> None:
    model = families.reduced(name, reduction)
    together = run(model, images(3))
    for index in range(3):
        torch.testing.assert_close(run(model, images(3)[index : index + 1])[0], together[index], rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_prefix_in_the_blocks_is_known(name: str) -> None:
    spec = families.spec(name)
    assert (spec.prefix_tokens, spec.tokens) == (FAMILIES[name].prefix, 16 + FAMILIES[name].prefix)


@pytest.mark.parametrize("name", FAMILIES)
def test_half_precision_stays_half(name: str) -> None:
    if name == "eva-rope-mixed" and tuple(map(int, timm.__version__.split(".")[:3])) < (1, 0, 31):
        pytest.skip("timm before 1.0.31 multiplies mixed frequencies in float32 with positions in half precision")
    out = run(families.reduced(name, Reduction(r=3, mode=Mode.TOME)).half(), images().half())
    assert out.dtype == torch.float16
    assert bool(torch.isfinite(out).all())


class _Watch:
    """Notes the matching of every layer."""

    def __init__(self) -> None:
        self.scores: list[Tensor] = []

    def decide(self, layer: int, scores: Any, proposed: Any) -> Any:
        self.scores.append(scores.pairs)
        return proposed


def test_keys_of_a_differential_attention_are_those_of_both_halves() -> None:
    model = families.reduced("diff", SOME)
    block = model.blocks[0]
    watch, seen = _Watch(), []
    handle = block.attn.k_norm.register_forward_hook(lambda _module, _args, keys: seen.append(keys))
    with observe(watch):
        run(model, images())
    handle.remove()
    metric = seen[0].double().mean(dim=1)
    unit = metric / metric.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(watch.scores[0].double(), unit[:, 2::2] @ unit[:, 1::2].mT, rtol=0, atol=1e-6)


def test_keys_of_cait_are_the_middle_third_of_its_projection() -> None:
    model = families.reduced("cait", SOME)
    watch, seen = _Watch(), []
    handle = model.blocks[0].attn.qkv.register_forward_hook(lambda _module, _args, out: seen.append(out))
    with observe(watch):
        run(model, images())
    handle.remove()
    metric = seen[0][..., 32:64].reshape(2, 16, 4, 8).double().mean(dim=2)
    unit = metric / metric.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(watch.scores[0].double(), unit[:, 0::2] @ unit[:, 1::2].mT, rtol=0, atol=1e-6)


# --- Positions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [Method.PRUNE, Method.AVERAGE, Method.MLERP, Method.TOME])
@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
def test_positions_are_those_of_the_tokens_that_stay(method: Method, prefix: int) -> None:
    """Tokens that nothing joined are known by their values; the others come out at their destination's position."""
    generator = torch.Generator().manual_seed(prefix)
    state = TokenState(torch.randn(3, 20, 8, generator=generator))
    original = state.tokens
    for removed in (4, 3, 2):
        metric = torch.randn(3, state.tokens.shape[1], 8, generator=generator)
        state = reduce_state(
            state, metric, Step(method=method, removed=removed, prefix=prefix), Tracked(sizes=True, positions=True)
        )
    assert state.positions is not None
    assert state.sizes is not None
    assert state.positions.dtype == torch.int64
    assert state.positions.shape == (3, 11, 1)
    for image in range(3):
        positions = state.positions[image, :, 0].tolist()
        assert positions[:prefix] == list(range(prefix))
        assert len(set(positions)) == len(positions)
        for index, position in enumerate(positions):
            alone = method is Method.PRUNE or state.sizes[image, index].item() == 1
            assert alone == torch.equal(state.tokens[image, index], original[image, position])


def test_positions_that_nobody_needs_are_not_carried() -> None:
    state = reduce_state(
        TokenState(torch.randn(1, 9, 4)), torch.randn(1, 9, 4), Step(method=Method.PRUNE, removed=2, prefix=1)
    )
    assert state.positions is None


@pytest.mark.parametrize("name", FAMILIES)
def test_positions_travel_where_something_depends_on_them(name: str) -> None:
    model = families.reduced(name, SOME)
    states: list[Any] = []
    handle = model.blocks[1].register_forward_hook(lambda _module, _args, out: states.append(out))
    run(model, images())
    handle.remove()
    (state,) = states
    assert (state.positions is not None) == FAMILIES[name].placed


@pytest.mark.parametrize("name", PLACED)
def test_positions_matter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were they those of the first tokens instead, the result would be another."""
    model = families.reduced(name, SOME)
    expected = run(model, images())
    original = fused.reduce_state

    def forgetful(*args: Any, **kwargs: Any) -> TokenState:
        state = original(*args, **kwargs)
        if state.positions is None:
            return state
        first = torch.arange(state.tokens.shape[1]).view(1, -1, 1).expand_as(state.positions)
        return state._replace(positions=first)

    monkeypatch.setattr(fused, "reduce_state", forgetful)
    assert (run(model, images()) - expected).abs().max() > 1e-3


# --- Refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_masks_are_refused(name: str) -> None:
    block = families.reduced(name, SOME).blocks[0]
    x = torch.zeros(1, families.spec(name).tokens, 32)
    for kwargs in ({"attn_mask": torch.zeros(1, 1, 17, 17)}, {"is_causal": True}):
        with pytest.raises(UnsupportedModelError, match="attention mask"):
            block(x, **kwargs)


@pytest.mark.parametrize("name", FAMILIES)
def test_checkpointing_is_refused(name: str) -> None:
    model = families.build(name)
    model.set_grad_checkpointing(True)
    with pytest.raises(UnsupportedModelError, match="set_grad_checkpointing"):
        patch.apply(model, make_plan(families.spec(name), SOME))


# The adapters of scaling blocks call the block's own forward, whatever it computes.
@pytest.mark.parametrize("name", [name for name in FAMILIES if "scaling" not in name])
def test_an_upstream_block_that_computes_something_else_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = families.build(name)
    block = type(model.blocks[0])
    forward = block.forward
    monkeypatch.setattr(block, "forward", lambda self, x, *args, **kwargs: forward(self, x, *args, **kwargs) + 1e-6 * x)
    with pytest.raises(UnsupportedModelError, match=r"block 0 \(.*\) does not compute what its adapter expects"):
        patch.apply(model, make_plan(families.spec(name), SOME))


@pytest.mark.parametrize("kind", REFUSED)
def test_refusals_name_the_model_and_the_reason(kind: str) -> None:
    model = type(kind, (nn.Module,), {})()
    with pytest.raises(UnsupportedModelError) as error:
        patch.apply(model, make_plan(families.spec("cait"), SOME), name="this one")
    assert f"this one is a {kind}" in str(error.value)
    assert REFUSED[kind] in str(error.value)


@pytest.mark.parametrize("name", ["eva", "eva-rope-cat", "diff", "cait"])
def test_companions_that_attention_would_not_see_are_refused(name: str) -> None:
    """In a layer that removes nothing too: sizes and positions go through the call that is watched."""
    model = families.reduced(name, Reduction(r=3, pattern="T-T", prop_attn=True))
    attention = model.blocks[1].attn
    if name == "cait":
        attention.forward = lambda x: x
    else:
        attention.fused_attn = False
    with pytest.raises(UnsupportedModelError, match=r"block 1 .*its keys cannot be told"):
        run(model, images())
