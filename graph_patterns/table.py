"""Which formulation each target and precision gets. Explicit, ordered, no registration by import."""

from __future__ import annotations

from onnxscript.rewriter import RewriteRule, RewriteRuleClassBase

from tofu_export.graph_patterns.attention_aligned import aligned
from tofu_export.graph_patterns.attention_decomposed import decomposed
from tofu_export.graph_patterns.attention_rules import Attend, AttentionRule, BiasedAttentionRule
from tofu_export.graph_patterns.formulation import Formulation
from tofu_export.graph_patterns.gelu import GeluRule
from tofu_export.graph_patterns.match_rank import match_rank
from tofu_export.graph_patterns.match_sort import match_sort
from tofu_export.graph_patterns.merge_onehot import merge_onehot
from tofu_export.graph_patterns.merge_scatter import merge_scatter
from tofu_export.graph_patterns.token_map import RestoreRule
from tofu_export.options import Precision, Target

__all__ = ["ATTENTION", "FORMULATIONS", "WIDENED", "rules_for"]

_SORT_ONEHOT = Formulation(match_sort, merge_onehot)
_SORT_SCATTER = Formulation(match_sort, merge_scatter)
_RANK_ONEHOT = Formulation(match_rank, merge_onehot)

FORMULATIONS: dict[tuple[Target, Precision], Formulation] = {
    (Target.PORTABLE, Precision.FP32): _RANK_ONEHOT,
    (Target.PORTABLE, Precision.FP16): _RANK_ONEHOT,
    (Target.PORTABLE, Precision.BF16): _RANK_ONEHOT,
    (Target.ONNXRUNTIME, Precision.FP32): _SORT_SCATTER,
    (Target.ONNXRUNTIME, Precision.FP16): _SORT_ONEHOT,
    (Target.ONNXRUNTIME, Precision.BF16): _SORT_ONEHOT,
    (Target.TENSORRT, Precision.FP32): _RANK_ONEHOT,
    (Target.TENSORRT, Precision.FP16): _RANK_ONEHOT,
    (Target.TENSORRT, Precision.BF16): _RANK_ONEHOT,
    (Target.TENSORRT_RTX, Precision.FP32): _RANK_ONEHOT,
    (Target.TENSORRT_RTX, Precision.FP16): _RANK_ONEHOT,
    (Target.TENSORRT_RTX, Precision.BF16): _RANK_ONEHOT,
}
"""How each target and precision matches and merges."""


ATTENTION: dict[tuple[Target, Precision], Attend] = {
    (Target.PORTABLE, Precision.FP32): aligned,
    (Target.TENSORRT, Precision.FP32): aligned,
    (Target.TENSORRT_RTX, Precision.FP32): aligned,
}
"""How a target and precision attends, where that is not `decomposed`. In onnxruntime both are equally fast."""


WIDENED = frozenset({(Target.ONNXRUNTIME, Precision.FP32)})
"""Targets and precisions whose hidden layers are widened where that spares cache conflicts."""


def rules_for(target: Target, precision: Precision, opset: int) -> tuple[RewriteRule, ...]:
    """The rules that lower every canonical operator but `Fuse`, in the order they are tried."""
    attend = ATTENTION.get((target, precision), decomposed)
    rules = (
        AttentionRule(attend),
        BiasedAttentionRule(attend),
        GeluRule(opset),
        RestoreRule(),
    )
    return tuple(_as_rule(rule) for rule in rules)


def _as_rule(rule: RewriteRuleClassBase) -> RewriteRule:
    return RewriteRule(rule.pattern, rule.rewrite, rule.check, name=rule.name)
