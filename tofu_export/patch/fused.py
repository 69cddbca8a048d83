"""Mixins that replace the forward of upstream's blocks and models in a patched model."""

from __future__ import annotations

from typing import Any, NoReturn

from torch import Tensor, nn

from tofu_export.errors import UnsupportedModelError
from tofu_export.options import KeySource
from tofu_export.patch.blocks import BlockAdapter
from tofu_export.patch.fuse import Step, Tracked, reduce_state
from tofu_export.patch.halting import count_over, hide_halted, rest, spend
from tofu_export.patch.keys import mean_over_heads, unrotated_keys
from tofu_export.patch.places import place_rope
from tofu_export.patch.predictors import importance_of
from tofu_export.patch.state import TokenState
from tofu_export.patch.token_map import current_token_map, restore
from tofu_export.planning.plan import LayerPlan, Plan

__all__ = ["SETTING", "BlockSetting", "FusedBlock", "FusedModel"]

SETTING = "_tofu_setting"
"""Attribute of a patched block that holds its `BlockSetting`."""


class BlockSetting:
    """Settings of one patched block. Immutable after construction.

    Attributes:
        adapter: the halves of the block.
        layer: plan of the block.
        plan: plan of the model.
        fused_attn: whether each attention in the unpatched block is fused, by its name.
        predictor: scores the tokens that enter the block, which leave before it; None without trained predictors.
        is_last: True for the last block.
    """

    def __init__(
        self,
        adapter: BlockAdapter,
        layer: LayerPlan,
        plan: Plan,
        fused_attn: dict[str, bool],
        predictor: nn.Module | None = None,
    ) -> None:
        self.adapter = adapter
        self.layer = layer
        self.plan = plan
        self.fused_attn = fused_attn
        self.predictor = predictor
        self.is_last = layer.layer == len(plan.layers) - 1


class FusedBlock:
    """Mixin in front of an upstream block class."""

    def forward(
        self, x: Tensor | TokenState, attn_mask: Tensor | None = None, is_causal: bool = False, **kwargs: Any
    ) -> Any:
        """Run attention half and MLP half, and the reduction before or between them.

        [B, N, C] -> [B, N - removed, C], wrapped but in the last block, which returns all N tokens of the first one if
        the plan restores them, and the protected ones alone, [B, P, C], if tokens halt.
        """
        setting: BlockSetting = getattr(self, SETTING)
        adapter, layer, plan = setting.adapter, setting.layer, setting.plan
        gate = plan.halting
        if attn_mask is not None or is_causal:
            raise UnsupportedModelError("a reduced model takes no attention mask: call it with the image only")
        state = x if isinstance(x, TokenState) else TokenState(x)
        if state.tokens.shape[1] != layer.tokens_in:
            raise ValueError(
                f"block {layer.layer} got {state.tokens.shape[1]} tokens, the plan says {layer.tokens_in}: "
                "make a new plan for this image size"
            )
        rope = kwargs.get("rope")
        between = layer.removed > 0 and not plan.reduction.select.is_before_block
        if layer.removed and not between:
            # Whether the attention has relative positions shows only later: files drop positions that nothing reads.
            placed = rope is not None or gate is not None
            state = _reduced(setting, state, importance=_importance(setting, state), placed=placed)
        if gate is not None:
            state = hide_halted(state)
        if rope is not None:
            kwargs["rope"] = place_rope(rope, state.positions, plan.prefix_tokens)
        attentions = adapter.attentions(self)
        unrotated = between and plan.reduction.keys is KeySource.PRE_ROPE
        capture = adapter.capture(state)  # not `as capture`: torch.compile would break the graph there (torch 2.14)
        with capture, unrotated_keys(attentions if unrotated else ()) as keys:
            tokens = adapter.attend(self, state.tokens, **kwargs)
        if layer.removed or state.bias is not None or state.positions is not None:
            capture.check(attentions, layer.layer)
        state = state._replace(tokens=tokens)
        if between:
            placed = rope is not None or capture.relative
            if placed and state.positions is None and layer.tokens_in != plan.layers[0].tokens_in:
                raise UnsupportedModelError(
                    f"block {layer.layer} depends on positions, the blocks before it do not: report this architecture"
                )
            metric = mean_over_heads(keys) if unrotated else capture.metric(attentions)
            seen = capture.class_attention() if plan.reduction.select.reads_class_attention else None
            state = _reduced(setting, state, metric, importance=seen, placed=placed)
        state = state._replace(tokens=adapter.feed(self, state.tokens))
        if setting.is_last:
            if plan.restores_grid:
                state = restore(state)
            if (token_map := current_token_map()) is not None:
                token_map.note(state)
        if gate is not None:
            state = spend(state, gate, plan.prefix_tokens, layer.layer, last=setting.is_last)
        return state.tokens if setting.is_last else state


def _importance(setting: BlockSetting, state: TokenState) -> Tensor:
    """Return what the tokens that enter a block are ranked by, [B, N] float32, if they leave before it."""
    if setting.predictor is None:
        return rest(state)
    return importance_of(setting.predictor, state, setting.plan.prefix_tokens, packs=setting.plan.packs)


def _reduced(
    setting: BlockSetting, state: TokenState, metric: Tensor | None = None, *, importance: Tensor | None, placed: bool
) -> TokenState:
    """Remove tokens in one layer as its plan says; `placed`: the model depends on positions of tokens."""
    layer, plan, token_map = setting.layer, setting.plan, current_token_map()
    attends = not setting.is_last or plan.reduction.select.is_before_block  # an attention follows
    reduction = plan.reduction
    step = Step(
        layer.method, layer.removed, plan.prefix_tokens, reduction.sizes_of_pruned, reduction.select, layer.layer,
        depth=len(plan.layers),
    )  # fmt: skip
    tracked = Tracked(
        sizes=plan.tracks_sizes or reduction.select.halts,
        positions=placed and attends,
        rows=plan.restores_grid or (token_map is not None and token_map.wants_rows),
        groups=token_map is not None and token_map.wants_groups,
    )
    reduced = reduce_state(state, metric, step, tracked, importance)
    if reduction.select.halts:
        return count_over(state, reduced)
    return reduced.with_bias() if plan.prop_attn and attends else reduced


class FusedModel:
    """Mixin in front of an upstream model class that refuses methods which need the full token grid."""

    def forward_intermediates(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: intermediate grids do not exist once tokens have left."""
        raise UnsupportedModelError(
            "a reduced model has no token grid between blocks: call tofu_export.patch.remove(model) before "
            "forward_intermediates or get_intermediate_layers, or take the grid after the last block "
            "(Reduction(restore_grid=True), --output-kind grid)"
        )

    get_intermediate_layers = forward_intermediates
