"""Which recipes each target and precision accepts. Explicit, ordered, no registration by import."""

from __future__ import annotations

from onnxscript.rewriter import RewriteRule, RewriteRuleClassBase

from tofu_export.graph_patterns.attention_aligned import aligned
from tofu_export.graph_patterns.attention_rules import Attend, AttentionRule, BiasedAttentionRule
from tofu_export.graph_patterns.formulation import Formulation
from tofu_export.graph_patterns.gelu import GeluRule
from tofu_export.graph_patterns.match_rank import match_rank
from tofu_export.graph_patterns.match_sort import match_sort
from tofu_export.graph_patterns.merge_onehot import merge_onehot
from tofu_export.graph_patterns.merge_scatter import merge_scatter
from tofu_export.graph_patterns.recipe import Recipe
from tofu_export.graph_patterns.token_map import RestoreRule
from tofu_export.options import Precision, Target

__all__ = ["RECIPES", "recipes_for", "rules_for"]

_SORT_ONEHOT = Formulation(match_sort, merge_onehot)
_SORT_SCATTER = Formulation(match_sort, merge_scatter)
_RANK_ONEHOT = Formulation(match_rank, merge_onehot)

_FUSED_ATTENTION = (Recipe(_RANK_ONEHOT), Recipe(_SORT_ONEHOT))
"""Where attention is one kernel whatever the number of keys."""
_PADDED_ATTENTION = (
    Recipe(_RANK_ONEHOT, aligned),
    Recipe(_RANK_ONEHOT),
    Recipe(_SORT_ONEHOT, aligned),
    Recipe(_SORT_ONEHOT),
)
"""Where TensorRT-RTX has no fused attention, and copies an odd number of keys."""

RECIPES: dict[tuple[Target, Precision], tuple[Recipe, ...]] = {
    (Target.PORTABLE, Precision.FP32): _PADDED_ATTENTION,
    (Target.PORTABLE, Precision.FP16): _FUSED_ATTENTION,
    (Target.PORTABLE, Precision.BF16): _FUSED_ATTENTION,
    (Target.ONNXRUNTIME, Precision.FP32): (
        Recipe(_SORT_SCATTER, widened=True),
        Recipe(_SORT_SCATTER),
        Recipe(_SORT_ONEHOT, widened=True),
        Recipe(_SORT_ONEHOT),
        Recipe(_RANK_ONEHOT, widened=True),
        Recipe(_RANK_ONEHOT),
    ),
    (Target.ONNXRUNTIME, Precision.FP16): (Recipe(_SORT_ONEHOT), Recipe(_RANK_ONEHOT)),
    (Target.ONNXRUNTIME, Precision.BF16): (Recipe(_SORT_ONEHOT), Recipe(_RANK_ONEHOT)),
    (Target.TENSORRT, Precision.FP32): _PADDED_ATTENTION,
    (Target.TENSORRT, Precision.FP16): _FUSED_ATTENTION,
    (Target.TENSORRT, Precision.BF16): _FUSED_ATTENTION,
    (Target.TENSORRT_RTX, Precision.FP32): _PADDED_ATTENTION,
    (Target.TENSORRT_RTX, Precision.FP16): _FUSED_ATTENTION,
    (Target.TENSORRT_RTX, Precision.BF16): _FUSED_ATTENTION,
}
"""What each target and precision accepts. The first was fastest, or had the fewest kernels, where it was measured
(docs/decisions/008); `tofu_export.autotune` measures the others."""


def recipes_for(target: Target, precision: Precision) -> tuple[Recipe, ...]:
    """The ways to lower a graph that a target accepts, the default first; for int8 those of float32."""
    return RECIPES[target, precision.traced]


def rules_for(attend: Attend, opset: int) -> tuple[RewriteRule, ...]:
    """The rules that lower every canonical operator but `Fuse`, in the order they are tried."""
    rules = (
        AttentionRule(attend),
        BiasedAttentionRule(attend),
        GeluRule(opset),
        RestoreRule(),
    )
    return tuple(_as_rule(rule) for rule in rules)


def _as_rule(rule: RewriteRuleClassBase) -> RewriteRule:
    return RewriteRule(rule.pattern, rule.rewrite, rule.check, name=rule.name)
