"""Put Token Fusion into a timm model, and remove it.

Blocks and model get a subclass of their own class (`__class__` is swapped): parameters, names, `isinstance` and
upstream's sub-modules stay. Each block holds its own frozen `LayerPlan`; nothing mutable is read in `forward`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from tofu_export.errors import OptionError, UnsupportedModelError
from tofu_export.options import KeySource, Method
from tofu_export.patch.blocks import adapter_for
from tofu_export.patch.fused import SETTING, BlockSetting, FusedBlock, FusedModel
from tofu_export.patch.mixins import add_mixin, drop_mixin
from tofu_export.patch.places import all_positions
from tofu_export.patch.predictors import ATTRIBUTE, predictors_of
from tofu_export.patch.state import TokenState
from tofu_export.patch.support import block_prefix, check_supported, has_class_token
from tofu_export.planning.plan import Plan, without_class_token

__all__ = ["applied_plan", "apply", "check_plan", "remove"]


def apply(model: nn.Module, plan: Plan, *, name: str = "the model") -> nn.Module:
    """Reduce a model in place as `plan` says, and return it.

    A plan that the model already carries is replaced. If anything fails, the model is left unchanged.

    Raises:
        UnsupportedModelError: the model, one of its blocks or its forward is not known, or it lacks a class token that
            the plan needs.
        OptionError: the plan asks for keys before a rotary embedding that the model does not have.
        ValueError: the plan is for another depth or prefix.
    """
    previous = applied_plan(model)
    if previous == plan:
        return model
    with ExitStack() as undo:
        if previous is not None:
            undo.callback(_install, model, previous)
        undo.callback(remove, model)
        remove(model)
        check_plan(model, plan, name)
        architecture: Any = model
        for index, block in enumerate(architecture.blocks):
            _check_block(block, name, index, architecture.embed_dim)
        _install(model, plan)
        undo.pop_all()
    return model


def check_plan(model: nn.Module, plan: Plan, name: str) -> None:
    """Check that an unpatched model has what a plan needs; `apply` also checks its blocks, by running them.

    Raises:
        UnsupportedModelError: the model is not known, or it lacks a class token that the plan needs.
        OptionError: the plan asks for keys before a rotary embedding that the model does not have.
        ValueError: the plan is for another depth or prefix, or for predictors that the model does not have.
    """
    check_supported(model, name)
    architecture: Any = model
    if len(architecture.blocks) != len(plan.layers) or block_prefix(model) != plan.prefix_tokens:
        raise ValueError(
            f"the plan is for {len(plan.layers)} blocks and {plan.prefix_tokens} prefix tokens, {name} has "
            f"{len(architecture.blocks)} and {block_prefix(model)}"
        )
    if plan.reduction.keys is KeySource.PRE_ROPE and getattr(model, "rope", None) is None:
        raise OptionError(f"{name} has no rotary embedding: leave out keys={plan.reduction.keys.value!r} (--keys)")
    if plan.reduction.select.needs_class_token and not has_class_token(model):
        raise UnsupportedModelError(without_class_token(name, plan.reduction.select))
    if plan.reduction.select.halts and (pool := getattr(model, "global_pool", "token")) != "token":
        raise UnsupportedModelError(
            f"{name} pools by {pool!r}, but of tokens that halt only the class token has an output: choose another "
            "selection, or build the model with global_pool='token'"
        )
    known = predictors_of(model)
    if plan.predictor is not None and (known is None or known.kind is not plan.predictor):
        raise ValueError(f"the plan is for predictors of {plan.predictor.value}, which {name} does not have")


def _install(model: nn.Module, plan: Plan) -> None:
    """Switch the classes of a checked model that carries no plan."""
    architecture: Any = model
    predictors = iter(getattr(model, ATTRIBUTE) if plan.predictor is not None else ())
    for block, layer in zip(architecture.blocks, plan.layers, strict=True):
        adapter = adapter_for(block)
        assert adapter is not None  # check_supported
        fused_attn = _fused_attn(block)
        predictor = next(predictors, None) if layer.method is not Method.NONE else None
        setattr(block, SETTING, BlockSetting(adapter, layer, plan, fused_attn, predictor))
        if plan.removes or plan.reduction.select.halts:  # else attention stays as its owner chose, bit for bit
            _set_fused_attn(block, dict.fromkeys(fused_attn, True))
        add_mixin(block, FusedBlock)
    add_mixin(model, FusedModel)


def remove(model: nn.Module) -> nn.Module:
    """Restore the unpatched form of a model, and return it. Does nothing to a model that is not patched."""
    for block in getattr(model, "blocks", ()):
        setting = block.__dict__.pop(SETTING, None)
        if setting is not None:
            _set_fused_attn(block, setting.fused_attn)
        drop_mixin(block, FusedBlock)
    drop_mixin(model, FusedModel)
    return model


def applied_plan(model: nn.Module) -> Plan | None:
    """Return the plan that a model carries, or None if it is not patched."""
    if not isinstance(model, FusedModel):
        return None
    blocks: Any = model.blocks
    setting: BlockSetting = getattr(blocks[0], SETTING)
    return setting.plan


def _fused_attn(block: nn.Module) -> dict[str, bool]:
    """Return whether each attention in a block is fused, by its name in the block."""
    return {
        path: part.fused_attn
        for path, part in block.named_modules()
        if isinstance(getattr(part, "fused_attn", None), bool)
    }


def _set_fused_attn(block: Any, fused: Mapping[str, bool]) -> None:
    for path, value in fused.items():
        block.get_submodule(path).fused_attn = value


@torch.no_grad()
def _check_block(block: Any, name: str, index: int, width: int) -> None:
    """Check that the two halves in sequence equal the block's own forward bit for bit.

    Thereby a timm release that changes a block is refused instead of giving wrong numbers. Both see the first three
    tokens of the grid, as far as a relative position bias is concerned.
    """
    adapter = adapter_for(block)
    assert adapter is not None  # check_supported
    weight = next(block.parameters())
    modes = [(module, module.training) for module in block.modules()]
    fused_attn = _fused_attn(block)
    block.eval()
    _set_fused_attn(block, dict.fromkeys(fused_attn, True))
    try:
        generator = torch.Generator().manual_seed(index)
        x = torch.randn(1, 3, width, generator=generator).to(weight.dtype).to(weight.device)
        with adapter.capture(TokenState(x, positions=all_positions(x))):
            expected = block(x)
            got = adapter.feed(block, adapter.attend(block, x))
    finally:
        for module, training in modes:
            module.training = training
        _set_fused_attn(block, fused_attn)
    if weight.device.type != "meta" and not torch.equal(expected, got):
        raise UnsupportedModelError(
            f"{name}: block {index} ({type(block).__name__}) does not compute what its adapter expects. "
            "This timm version changed it: install a version that pyproject.toml allows, or report this"
        )
