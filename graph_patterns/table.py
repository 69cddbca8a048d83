"""Table of recipes by target and precision. Explicit, no registration by import."""

from __future__ import annotations

from dataclasses import replace

from onnxscript.rewriter import RewriteRule, RewriteRuleClassBase

from tofu_export.graph_patterns.attention.aligned import aligned
from tofu_export.graph_patterns.attention.rules import Attend, AttentionRule, BiasedAttentionRule
from tofu_export.graph_patterns.fuse.formulation import Formulation
from tofu_export.graph_patterns.fuse.match_rank import match_rank
from tofu_export.graph_patterns.fuse.match_sort import match_sort
from tofu_export.graph_patterns.fuse.merge_onehot import merge_onehot
from tofu_export.graph_patterns.fuse.merge_scatter import merge_scatter
from tofu_export.graph_patterns.fuse.token_map import RestoreRule
from tofu_export.graph_patterns.halting import HaltRule
from tofu_export.graph_patterns.lean.gelu import GeluRule
from tofu_export.graph_patterns.recipe import Recipe
from tofu_export.options import AttentionForm, Precision, Target

__all__ = ["RECIPES", "recipe_for", "rules_for"]

_RANK_ONEHOT = Formulation(match_rank, merge_onehot)
_SORT_ONEHOT = Formulation(match_sort, merge_onehot)
_SORT_SCATTER = Formulation(match_sort, merge_scatter)

_FUSED_ATTENTION = Recipe(_RANK_ONEHOT)
"""Recipe for targets whose attention is one kernel for any number of keys."""
_PADDED_ATTENTION = Recipe(_RANK_ONEHOT, aligned)
"""Recipe for TensorRT-RTX without fused attention, where an odd number of keys is copied."""

RECIPES: dict[tuple[Target, Precision], Recipe] = {
    (Target.PORTABLE, Precision.FP32): _PADDED_ATTENTION,
    (Target.PORTABLE, Precision.FP16): _FUSED_ATTENTION,
    (Target.PORTABLE, Precision.BF16): _FUSED_ATTENTION,
    (Target.ONNXRUNTIME, Precision.FP32): Recipe(_SORT_SCATTER, widened=True),
    (Target.ONNXRUNTIME, Precision.FP16): Recipe(_SORT_ONEHOT),
    (Target.ONNXRUNTIME, Precision.BF16): Recipe(_SORT_ONEHOT),
    (Target.TENSORRT, Precision.FP32): _PADDED_ATTENTION,
    (Target.TENSORRT, Precision.FP16): _FUSED_ATTENTION,
    (Target.TENSORRT, Precision.BF16): _FUSED_ATTENTION,
    (Target.TENSORRT_RTX, Precision.FP32): _PADDED_ATTENTION,
    (Target.TENSORRT_RTX, Precision.FP16): _FUSED_ATTENTION,
    (Target.TENSORRT_RTX, Precision.BF16): _FUSED_ATTENTION,
}
"""Recipe of each target and precision: the fastest, or the one with the fewest kernels, of those that it accepts
(docs/decisions/008)."""


def recipe_for(target: Target, precision: Precision, attention: AttentionForm = AttentionForm.FUSED) -> Recipe:
    """Return the recipe for a target, with its attention in a form; int8 uses that of float32."""
    return replace(RECIPES[target, precision.traced], attention=attention)


def rules_for(attend: Attend, opset: int) -> tuple[RewriteRule, ...]:
    """Return the rules that lower every canonical operator but `Fuse`, in the order they are tried."""
    rules = (
        AttentionRule(attend),
        BiasedAttentionRule(attend),
        GeluRule(opset),
        RestoreRule(),
        HaltRule(),
    )
    return tuple(_as_rule(rule) for rule in rules)


def _as_rule(rule: RewriteRuleClassBase) -> RewriteRule:
    return RewriteRule(rule.pattern, rule.rewrite, rule.check, name=rule.name)
