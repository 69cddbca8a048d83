"""Which formulation each target and precision gets. Explicit, ordered, no registration by import."""

from __future__ import annotations

from onnxscript.rewriter import RewriteRule, RewriteRuleClassBase

from tofu_export.graph_patterns.attention_decomposed import AttentionRule, BiasedAttentionRule
from tofu_export.graph_patterns.fuse_rules import FUSE_RULES
from tofu_export.graph_patterns.gelu import GeluRule
from tofu_export.graph_patterns.merge_onehot import merge_onehot
from tofu_export.graph_patterns.merge_scatter import merge_scatter
from tofu_export.graph_patterns.merging import Merge
from tofu_export.options import Precision, Target

__all__ = ["MERGES", "rules_for"]

MERGES: dict[tuple[Target, Precision], Merge] = {
    (Target.PORTABLE, Precision.FP32): merge_onehot,
    (Target.PORTABLE, Precision.FP16): merge_onehot,
    (Target.PORTABLE, Precision.BF16): merge_onehot,
    (Target.ONNXRUNTIME, Precision.FP32): merge_scatter,
    (Target.ONNXRUNTIME, Precision.FP16): merge_onehot,
    (Target.ONNXRUNTIME, Precision.BF16): merge_onehot,
    (Target.TENSORRT, Precision.FP32): merge_onehot,
    (Target.TENSORRT, Precision.FP16): merge_onehot,
    (Target.TENSORRT, Precision.BF16): merge_onehot,
    (Target.TENSORRT_RTX, Precision.FP32): merge_onehot,
    (Target.TENSORRT_RTX, Precision.FP16): merge_onehot,
    (Target.TENSORRT_RTX, Precision.BF16): merge_onehot,
}
"""The merging formulation of each target and precision."""


def rules_for(target: Target, precision: Precision, opset: int) -> tuple[RewriteRule, ...]:
    """The rules that lower every canonical operator for a target, precision and opset, in the order they are tried."""
    merge = MERGES[target, precision]
    rules = (*(rule(merge) for rule in FUSE_RULES), AttentionRule(), BiasedAttentionRule(), GeluRule(opset))
    return tuple(_as_rule(rule) for rule in rules)


def _as_rule(rule: RewriteRuleClassBase) -> RewriteRule:
    return RewriteRule(rule.pattern, rule.rewrite, rule.check, name=rule.name)
