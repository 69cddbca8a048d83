"""Into a UNet and out of it again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.diffusion import tiny_unet
from tofu_export.diffusion.apply import applied_unet_plan, apply_to_unet, remove_from_unet
from tofu_export.diffusion.models import create_unet, find_unet
from tofu_export.diffusion.options import UnetMode, UnetReduction
from tofu_export.errors import UnsupportedModelError

EVERYTHING = UnetReduction(max_downsample=2, merge_crossattn=True, merge_mlp=True)


def snapshot(unet: nn.Module) -> list[tuple[str, type, dict[str, Any]]]:
    return [(path, type(module), dict(module.__dict__)) for path, module in unet.named_modules()]


def test_remove_leaves_no_trace() -> None:
    unet = create_unet(tiny_unet.SOURCE)
    feeds = tiny_unet.inputs().random(2, 0)
    expected, before, names = tiny_unet.run(unet, feeds), snapshot(unet), list(unet.state_dict())
    apply_to_unet(unet, tiny_unet.plan("8", EVERYTHING))
    assert list(unet.state_dict()) == names
    assert isinstance(unet, type(create_unet(tiny_unet.SOURCE)))
    assert not torch.equal(tiny_unet.run(unet, feeds), expected)
    assert remove_from_unet(unet) is unet
    assert snapshot(unet) == before
    assert applied_unet_plan(unet) is None
    assert torch.equal(tiny_unet.run(unet, feeds), expected)


def test_applying_twice_is_applying_once_and_a_new_plan_takes_over() -> None:
    feeds = tiny_unet.inputs().random(1, 0)
    unet = tiny_unet.build()
    once = snapshot(unet)
    assert apply_to_unet(unet, tiny_unet.plan()) is unet
    assert snapshot(unet) == once
    other = tiny_unet.plan("8", UnetReduction(mode=UnetMode.TOME, ratio=0.25))
    apply_to_unet(unet, other)
    assert applied_unet_plan(unet) == other
    assert torch.equal(tiny_unet.run(unet, feeds), tiny_unet.run(tiny_unet.build("8", other.reduction), feeds))


def test_a_failure_leaves_what_was_there() -> None:
    unet = tiny_unet.build()
    once = snapshot(unet)
    source = find_unet("tiny", "random")
    from tofu_export.diffusion.describe import describe_unet
    from tofu_export.diffusion.models import inputs_of
    from tofu_export.diffusion.plan import make_unet_plan

    foreign = make_unet_plan(describe_unet(create_unet(source, meta=True), inputs_of(source), "tiny"), UnetReduction())
    with pytest.raises(ValueError, match="another UNet"):
        apply_to_unet(unet, foreign)
    assert snapshot(unet) == once
    assert applied_unet_plan(unet) == tiny_unet.plan()


def test_each_image_is_reduced_by_itself() -> None:
    """A batch with its unprompted twin, and an odd one: what one image gives does not depend on the others."""
    unet = tiny_unet.build("9x7")
    feeds = tiny_unet.inputs("9x7").random(3, 0)
    together = tiny_unet.run(unet, feeds)
    for image in range(3):
        alone = {name: value if name == "timestep" else value[image : image + 1] for name, value in feeds.items()}
        torch.testing.assert_close(tiny_unet.run(unet, alone), together[image : image + 1], rtol=0, atol=1e-5)


def test_parts_that_are_not_asked_for_see_all_tokens() -> None:
    seen: dict[str, int] = {}
    unet = tiny_unet.build("8", UnetReduction(merge_mlp=True))
    path = tiny_unet.plan().reduced[0].path
    for part, inner in (("attn1", "to_q"), ("attn1", "to_k"), ("attn2", "to_q"), ("ff", "net.0")):
        module = unet.get_submodule(f"{path}.{part}.{inner}")
        name = f"{part}.{inner}"
        module.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0].shape[1]}))
    tiny_unet.run(unet, tiny_unet.inputs().random(1, 0))
    assert seen == {"attn1.to_q": 32, "attn1.to_k": 32, "attn2.to_q": 64, "ff.net.0": 32}


def test_another_latent_size_is_refused() -> None:
    with pytest.raises(ValueError, match="8x8 tokens"):
        tiny_unet.run(tiny_unet.build("8"), tiny_unet.inputs("9x7").random(1, 0))


def test_masks_are_refused() -> None:
    unet: Any = tiny_unet.build()
    sample, step, text = map(torch.from_numpy, tiny_unet.inputs().random(1, 0).values())
    with pytest.raises(ValueError, match="attention_mask"), torch.no_grad():
        unet(sample, step, text, attention_mask=torch.ones(1, 64))


def test_an_error_inside_a_block_does_not_leak_its_decisions() -> None:
    unet: Any = tiny_unet.build()
    block = unet.get_submodule(tiny_unet.plan().reduced[0].path)
    with pytest.raises(RuntimeError, match="outside of its block"):
        block.attn1(torch.zeros(1, 64, 8))


@pytest.mark.parametrize("break_it", ["norm_type", "pos_embed", "only_cross_attention"])
def test_unknown_blocks_are_refused(break_it: str) -> None:
    unet: Any = create_unet(tiny_unet.SOURCE)
    block = unet.get_submodule(tiny_unet.plan().reduced[0].path)
    setattr(
        block, break_it, {"norm_type": "ada_norm", "pos_embed": nn.Identity(), "only_cross_attention": True}[break_it]
    )
    before = snapshot(unet)
    with pytest.raises(UnsupportedModelError):
        apply_to_unet(unet, tiny_unet.plan())
    assert snapshot(unet) == before


def test_other_models_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="UNet2DConditionModel"):
        apply_to_unet(nn.Linear(2, 2), tiny_unet.plan())
