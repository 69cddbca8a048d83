"""Mixins that replace the forward of upstream's blocks and models in a patched model."""

from __future__ import annotations

from typing import Any, NoReturn

from torch import Tensor

from tofu_export.errors import UnsupportedModelError
from tofu_export.options import KeySource
from tofu_export.patch.blocks import BlockAdapter
from tofu_export.patch.fuse import reduce_state
from tofu_export.patch.keys import mean_over_heads, unrotated_keys
from tofu_export.patch.places import place_rope
from tofu_export.patch.state import TokenState
from tofu_export.patch.token_map import current_token_map, restore
from tofu_export.planning.plan import LayerPlan, Plan

__all__ = ["SETTING", "BlockSetting", "FusedBlock", "FusedModel"]

SETTING = "_tofu_setting"
"""Attribute of a patched block that holds its `BlockSetting`."""


class BlockSetting:
    """Settings of one patched block. Immutable after construction."""

    def __init__(self, adapter: BlockAdapter, layer: LayerPlan, plan: Plan, fused_attn: dict[str, bool]) -> None:
        self.adapter = adapter
        self.layer = layer
        self.plan = plan
        self.fused_attn = fused_attn
        self.is_last = layer.layer == len(plan.layers) - 1


class FusedBlock:
    """Mixin in front of an upstream block class."""

    def forward(
        self, x: Tensor | TokenState, attn_mask: Tensor | None = None, is_causal: bool = False, **kwargs: Any
    ) -> Any:
        """Run attention half, reduction and MLP half: [B, N, C] -> [B, N - removed, C], wrapped but in the last block.

        The last block returns all N tokens of the first one if the plan restores them.
        """
        setting: BlockSetting = getattr(self, SETTING)
        adapter, layer, plan = setting.adapter, setting.layer, setting.plan
        select = plan.reduction.select
        token_map = current_token_map()
        if attn_mask is not None or is_causal:
            raise UnsupportedModelError("a reduced model takes no attention mask: call it with the image only")
        state = x if isinstance(x, TokenState) else TokenState(x)
        if state.tokens.shape[1] != layer.tokens_in:
            raise ValueError(
                f"block {layer.layer} got {state.tokens.shape[1]} tokens, the plan says {layer.tokens_in}: "
                "make a new plan for this image size"
            )
        rope = kwargs.get("rope")
        if rope is not None:
            kwargs["rope"] = place_rope(rope, state.positions, plan.prefix_tokens)
        attentions = adapter.attentions(self)
        unrotated = layer.removed > 0 and plan.reduction.keys is KeySource.PRE_ROPE
        capture = adapter.capture(state)  # not `as capture`: torch.compile would break the graph there (torch 2.14)
        with capture, unrotated_keys(attentions if unrotated else ()) as keys:
            tokens = adapter.attend(self, state.tokens, **kwargs)
        if layer.removed or state.bias is not None or state.positions is not None:
            capture.check(attentions, layer.layer)
        state = state._replace(tokens=tokens)
        if layer.removed:
            placed = rope is not None or capture.relative
            if placed and state.positions is None and layer.tokens_in != plan.layers[0].tokens_in:
                raise UnsupportedModelError(
                    f"block {layer.layer} depends on positions, the blocks before it do not: report this architecture"
                )
            state = reduce_state(
                state,
                mean_over_heads(keys) if unrotated else capture.metric(attentions),
                method=layer.method,
                removed=layer.removed,
                prefix=plan.prefix_tokens,
                track_sizes=plan.tracks_sizes,
                pruned_sizes=plan.reduction.sizes_of_pruned,
                track_positions=placed and not setting.is_last,
                track_rows=plan.restores_grid or (token_map is not None and token_map.wants_rows),
                track_groups=token_map is not None and token_map.wants_groups,
                select=select,
                class_attention=capture.class_attention() if select.reads_class_attention else None,
                layer=layer.layer,
                depth=len(plan.layers),
            )
            if plan.prop_attn and not setting.is_last:
                state = state.with_bias()
        state = state._replace(tokens=adapter.feed(self, state.tokens))
        if not setting.is_last:
            return state
        if plan.restores_grid:
            state = restore(state)
        if token_map is not None:
            token_map.note(state)
        return state.tokens


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
