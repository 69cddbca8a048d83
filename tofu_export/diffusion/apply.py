"""Put Token Fusion into diffusers' UNet, and remove it.

The classes of a transformer block and of its parts that see fewer tokens are swapped for subclasses, so
that parameters, their names, `isinstance` and upstream's forward stay. Upstream's forward of a block is not re-typed:
it runs between a mixin that matches what enters the block and mixins that merge before and restore after each part.
"""

from __future__ import annotations

from contextlib import ExitStack
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn

from tofu_export.diffusion._optional import load_diffusers, transformer_block_class
from tofu_export.diffusion.matching import GridMatching, match_grid, merge_grid, unmerge_grid
from tofu_export.diffusion.plan import BlockPlan, UnetPlan
from tofu_export.errors import UnsupportedModelError
from tofu_export.patch.mixins import add_mixin, drop_mixin

__all__ = ["applied_unet_plan", "apply_to_unet", "check_unet", "remove_from_unet", "transformer_blocks"]

_BLOCK = "_tofu_block"
"""Attribute of a reduced block and its parts that holds their `BlockPlan`."""
_PLAN = "_tofu_unet_plan"
"""Attribute of a reduced UNet that holds its plan."""

_MATCHING: ContextVar[GridMatching | None] = ContextVar("tofu_export_grid_matching", default=None)
"""Decisions of the running block, between its start and its end."""


class _MatchingBlock:
    """Mixin in front of a transformer block that matches its input tokens."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        plan: BlockPlan = self.__dict__[_BLOCK]
        if hidden_states.ndim != 3 or hidden_states.shape[1] != plan.tokens:
            raise ValueError(
                f"{plan.path} was reduced for a grid of {plan.height}x{plan.width} tokens and got "
                f"{tuple(hidden_states.shape)}: apply a plan for this latent size"
            )
        token = _MATCHING.set(match_grid(hidden_states, plan))
        try:
            return super().forward(hidden_states, *args, **kwargs)  # type: ignore[misc]
        finally:
            _MATCHING.reset(token)


class _ReducedPart:
    """Mixin in front of an attention or MLP that merges before it and restores all tokens after it."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        plan: BlockPlan = self.__dict__[_BLOCK]
        found = _MATCHING.get()
        if found is None:
            raise RuntimeError(f"a part of {plan.path} runs outside of its block")
        reduced: Tensor = super().forward(merge_grid(hidden_states, found, plan), *args, **kwargs)  # type: ignore[misc]
        return unmerge_grid(reduced, found)


class _ReducedSelfAttention(_ReducedPart):
    """Mixin that refuses masks: a mask has a column for each token, and merging is decided at run time."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if kwargs.get("attention_mask") is not None:
            raise ValueError("a UNet with reduced self-attention takes no attention_mask: leave it out")
        return super().forward(hidden_states, *args, **kwargs)


def apply_to_unet(unet: nn.Module, plan: UnetPlan, *, name: str = "the UNet") -> nn.Module:
    """Reduce a UNet in place as `plan` says, and return it.

    A plan that the UNet already carries is replaced. If anything fails, the UNet is left unchanged.

    Raises:
        UnsupportedModelError: the model is not diffusers' UNet2DConditionModel, or a block has an unknown form.
        ValueError: the plan is for another UNet.
    """
    previous = applied_unet_plan(unet)
    if previous == plan:
        return unet
    with ExitStack() as undo:
        if previous is not None:
            undo.callback(_install, unet, previous)
        undo.callback(remove_from_unet, unet)
        remove_from_unet(unet)
        check_unet(unet, name)
        present = {path for path, _ in transformer_blocks(unet)}
        planned = {block.path for block in plan.blocks}
        if present != planned:
            raise ValueError(f"the plan is for another UNet than {name}: blocks {sorted(present ^ planned)} differ")
        _install(unet, plan)
        undo.pop_all()
    return unet


def remove_from_unet(unet: nn.Module) -> nn.Module:
    """Restore the unpatched form of a UNet, and return it. Does nothing to a UNet that is not patched."""
    for module in unet.modules():
        if isinstance(module, (_MatchingBlock, _ReducedPart)):
            drop_mixin(module, (_MatchingBlock, _ReducedPart))
            del module.__dict__[_BLOCK]
    unet.__dict__.pop(_PLAN, None)
    return unet


def applied_unet_plan(unet: nn.Module) -> UnetPlan | None:
    """Return the plan that a UNet carries, or None if it is not patched."""
    plan: UnetPlan | None = unet.__dict__.get(_PLAN)
    return plan


def transformer_blocks(unet: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return path and module of each transformer block, in the order of the UNet's modules."""
    block_class = transformer_block_class()
    return [(path, module) for path, module in unet.named_modules() if isinstance(module, block_class)]


def check_unet(unet: nn.Module, name: str) -> None:
    """Refuse a UNet that is not known to be reduced correctly.

    Raises:
        UnsupportedModelError: names the unknown module.
    """
    diffusers = load_diffusers()
    if not isinstance(unet, diffusers.UNet2DConditionModel):
        raise UnsupportedModelError(f"{name} is a {type(unet).__name__}, expected diffusers' UNet2DConditionModel")
    for path, module in transformer_blocks(unet):
        block: Any = module
        if block.norm_type != "layer_norm":
            raise UnsupportedModelError(f"{name}: {path} has norm_type {block.norm_type!r}, expected 'layer_norm'")
        if block.pos_embed is not None or hasattr(block, "fuser"):
            raise UnsupportedModelError(
                f"{name}: {path} adds positions or grounding tokens to its blocks, which Token Fusion does not know"
            )
        if block.only_cross_attention:
            raise UnsupportedModelError(f"{name}: {path} has no self-attention, so nothing can be reduced before it")


def _install(unet: nn.Module, plan: UnetPlan) -> None:
    """Switch the classes of a checked UNet that carries no plan."""
    for block in plan.reduced:
        module: Any = unet.get_submodule(block.path)
        _swap(module.attn1, _ReducedSelfAttention, block)
        if plan.reduction.merge_crossattn and module.attn2 is not None:
            _swap(module.attn2, _ReducedPart, block)
        if plan.reduction.merge_mlp:
            _swap(module.ff, _ReducedPart, block)
        _swap(module, _MatchingBlock, block)
    unet.__dict__[_PLAN] = plan


def _swap(module: nn.Module, mixin: type, plan: BlockPlan) -> None:
    module.__dict__[_BLOCK] = plan
    add_mixin(module, mixin)
