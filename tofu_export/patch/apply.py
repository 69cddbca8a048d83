"""Put Token Fusion into a timm model, and take it out again.

Blocks and model get a subclass of their own class (`__class__` is swapped): parameters, names, `isinstance` and
upstream's sub-modules stay. Each block holds its own frozen `LayerPlan`; nothing mutable is read in `forward`.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from tofu_export.errors import UnsupportedModelError
from tofu_export.patch.blocks import BlockAdapter, adapter_for
from tofu_export.patch.fuse import fuse
from tofu_export.patch.keys import CapturedAttention, metric_of
from tofu_export.patch.state import TokenState
from tofu_export.patch.support import check_supported
from tofu_export.plan import LayerPlan, Plan

__all__ = ["applied_plan", "apply", "remove"]

_SETTING = "_tofu_setting"
_SUBCLASSES: dict[tuple[type, type], type[nn.Module]] = {}


class _BlockSetting:
    """What one patched block knows. Immutable after construction."""

    def __init__(self, adapter: BlockAdapter, layer: LayerPlan, plan: Plan, fused_attn: bool) -> None:
        self.adapter = adapter
        self.layer = layer
        self.plan = plan
        self.fused_attn = fused_attn
        self.is_last = layer.layer == len(plan.layers) - 1


class _FusedBlock:
    """Mixin in front of an upstream block class."""

    def forward(self, x: Tensor | TokenState, attn_mask: Tensor | None = None, is_causal: bool = False) -> Any:
        """Attention half, reduction, MLP half: [B, N, C] -> [B, N - removed, C], wrapped except in the last block."""
        setting: _BlockSetting = getattr(self, _SETTING)
        layer, plan = setting.layer, setting.plan
        if attn_mask is not None or is_causal:
            raise UnsupportedModelError("a reduced model takes no attention mask: call it with the image only")
        tokens, sizes = x if isinstance(x, TokenState) else (x, None)
        if tokens.shape[1] != layer.tokens_in:
            raise ValueError(
                f"block {layer.layer} got {tokens.shape[1]} tokens, the plan says {layer.tokens_in}: "
                "make a new plan for this image size"
            )
        bias = None if sizes is None else sizes.log().mT.unsqueeze(1).to(tokens.dtype)
        if layer.removed:
            with CapturedAttention() as capture:
                tokens = setting.adapter.attend(self, tokens, attn_mask=bias)
            tokens, sizes = fuse(
                tokens,
                metric_of(capture, layer.layer),
                method=layer.method,
                removed=layer.removed,
                prefix=plan.prefix_tokens,
                sizes=sizes,
                track_sizes=plan.tracks_sizes,
                layer=layer.layer,
            )
        else:
            tokens = setting.adapter.attend(self, tokens, attn_mask=bias)
        tokens = setting.adapter.feed(self, tokens)
        return tokens if setting.is_last else TokenState(tokens, sizes)


class _FusedModel:
    """Mixin in front of an upstream model class: refuses what needs the full token grid."""

    def forward_intermediates(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: intermediate grids do not exist once tokens have left."""
        raise UnsupportedModelError(
            "a reduced model has no token grid between blocks: call tofu_export.patch.remove(model) before "
            "forward_intermediates or get_intermediate_layers"
        )

    get_intermediate_layers = forward_intermediates


def _with_mixin(mixin: type, module: nn.Module) -> type[nn.Module]:
    """The subclass of a module's class with `mixin` in front, made once."""
    upstream = type(module)
    if (mixin, upstream) not in _SUBCLASSES:
        name = f"Fused{upstream.__name__}"
        _SUBCLASSES[mixin, upstream] = type(name, (mixin, upstream), {"__module__": upstream.__module__})
    return _SUBCLASSES[mixin, upstream]


def apply(model: nn.Module, plan: Plan, *, name: str = "the model") -> nn.Module:
    """Reduce `model` in place as `plan` says, and return it.

    A model that already carries a plan gets the new one. If anything fails, the model is as it was.

    Raises:
        UnsupportedModelError: the model, one of its blocks or its forward is not known.
        ValueError: the plan is for another depth or prefix.
    """
    carried = applied_plan(model)
    if carried == plan:
        return model
    remove(model)
    with ExitStack() as undo:
        if carried is not None:
            undo.callback(_put, model, carried, name, check=False)
        _put(model, plan, name)
        undo.pop_all()
    return model


def _put(model: nn.Module, plan: Plan, name: str, *, check: bool = True) -> None:
    """Patch an untouched model, after checking that its blocks compute what the adapters expect."""
    check_supported(model, name)
    architecture: Any = model
    if len(architecture.blocks) != len(plan.layers) or architecture.num_prefix_tokens != plan.prefix_tokens:
        raise ValueError(
            f"the plan is for {len(plan.layers)} blocks and {plan.prefix_tokens} prefix tokens, {name} has "
            f"{len(architecture.blocks)} and {architecture.num_prefix_tokens}"
        )
    with ExitStack() as undo:
        undo.callback(remove, model)
        for block, layer in zip(architecture.blocks, plan.layers, strict=True):
            adapter = adapter_for(block)
            assert adapter is not None  # check_supported
            if check:
                _check_adapter(block, adapter, name, layer.layer)
            setattr(block, _SETTING, _BlockSetting(adapter, layer, plan, block.attn.fused_attn))
            block.attn.fused_attn = bool(layer.removed) or block.attn.fused_attn  # only this call shows the keys
            block.__class__ = _with_mixin(_FusedBlock, block)
        model.__class__ = _with_mixin(_FusedModel, model)
        undo.pop_all()


def remove(model: nn.Module) -> nn.Module:
    """Bring `model` back to its untouched form, and return it. Does nothing to a model that is not patched."""
    for block in getattr(model, "blocks", ()):
        setting = block.__dict__.pop(_SETTING, None)
        if setting is not None:
            block.attn.fused_attn = setting.fused_attn
        _drop_mixin(block, _FusedBlock)
    _drop_mixin(model, _FusedModel)
    return model


def applied_plan(model: nn.Module) -> Plan | None:
    """The plan that `model` carries, None if it is not patched."""
    if not isinstance(model, _FusedModel):
        return None
    blocks: Any = model.blocks
    setting: _BlockSetting = getattr(blocks[0], _SETTING)
    return setting.plan


def _drop_mixin(module: nn.Module, mixin: type) -> None:
    if isinstance(module, mixin):
        module.__class__ = type(module).__mro__[2]


@torch.no_grad()
def _check_adapter(block: Any, adapter: BlockAdapter, name: str, index: int) -> None:
    """Run the two halves in a row and the block's own forward: they must agree bit for bit.

    A timm release that changes a block is so refused instead of giving wrong numbers.
    """
    weight = next(block.parameters())
    modes = [(module, module.training) for module in block.modules()]
    block.eval()
    try:
        generator = torch.Generator().manual_seed(index)
        x = torch.randn(1, 3, block.norm1.weight.shape[0], generator=generator).to(weight.dtype).to(weight.device)
        expected = block(x)
        got = adapter.feed(block, adapter.attend(block, x))
    finally:
        for module, training in modes:
            module.training = training
    if weight.device.type != "meta" and not torch.equal(expected, got):
        raise UnsupportedModelError(
            f"{name}: block {index} ({type(block).__name__}) does not compute what its adapter expects. "
            "This timm version changed it: install a version that pyproject.toml allows, or report this"
        )
