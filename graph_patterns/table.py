"""Which formulation each target and precision gets. Explicit, ordered, no registration by import."""

from __future__ import annotations

from onnxscript.rewriter import RewriteRule, RewriteRuleClassBase

from tofu_export.graph_patterns.attention_decomposed import AttentionRule, BiasedAttentionRule
from tofu_export.graph_patterns.gelu import GeluRule
from tofu_export.graph_patterns.merge_onehot import merge_onehot
from tofu_export.graph_patterns.merge_scatter import merge_scatter
from tofu_export.graph_patterns.merging import Merge
from tofu_export.graph_patterns.token_map import RestoreRule
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


def rules_for(opset: int) -> tuple[RewriteRule, ...]:
    """The rules that lower every canonical operator but `Fuse`, in the order they are tried. The same for all targets.

    Args:
        opset: the graph's.
    """
    return tuple(_as_rule(rule) for rule in (AttentionRule(), BiasedAttentionRule(), GeluRule(opset), RestoreRule()))


def _as_rule(rule: RewriteRuleClassBase) -> RewriteRule:
    return RewriteRule(rule.pattern, rule.rewrite, rule.check, name=rule.name)
