"""Lower a canonical graph to one that a target accepts."""

from __future__ import annotations

import logging
from collections import Counter

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.rewriter import MatchingTracer, RewriteRuleSet

from tofu_export.errors import LoweringError
from tofu_export.graph_patterns.attention.forms import write_attention
from tofu_export.graph_patterns.canonical import DOMAIN
from tofu_export.graph_patterns.cost import count_macs
from tofu_export.graph_patterns.fuse.lowering import lower_fuses
from tofu_export.graph_patterns.grid.lowering import lower_grids
from tofu_export.graph_patterns.lean.hidden_width import widen_hidden_layers
from tofu_export.graph_patterns.lean.tail import narrow_tail
from tofu_export.graph_patterns.naming import name_by_stage
from tofu_export.graph_patterns.recipe import Recipe
from tofu_export.graph_patterns.table import recipe_for, rules_for
from tofu_export.options import Precision, Target

__all__ = ["MACS", "census", "lower"]

MACS = "tofu_export.macs"
"""Key of a lowered graph's `meta` for its multiply-accumulates for one image."""

_logger = logging.getLogger(__name__)


def lower(model: ir.Model, target: Target, precision: Precision, recipe: Recipe | None = None) -> ir.Model:
    """Replace every canonical node of a graph, in place, by operators that a target accepts.

    Args:
        model: a canonical graph.
        target: the runtime to write for.
        precision: precision of the graph.
        recipe: recipe to use instead of `table.recipe_for(target, precision)`.

    Requires: a graph traced by `tofu_export.trace.export`, canonical nodes of domain `tofu` in it.
    Ensures: no node of domain `tofu` is left; names carry stages; the graph is sorted and has no dead nodes; its
    `meta[MACS]` holds its cost.

    Raises:
        LoweringError: a canonical node cannot be lowered; the message says which and why.
    """
    recipe = recipe or recipe_for(target, precision)
    before = census(model)
    name_by_stage(model)
    narrow_tail(model)
    common.RemoveUnusedNodesPass()(model)
    model.meta[MACS] = count_macs(model)
    if recipe.widened:
        widen_hidden_layers(model)
    try:
        lower_fuses(model, recipe.formulation)
        lower_grids(model)
    except LoweringError as error:
        raise LoweringError(f"{target.value}: {error}") from None
    rules = RewriteRuleSet(rules_for(recipe.attend, model.opset_imports[""]))
    rules.apply_to_model(model)
    left = [node for node in model.graph if node.domain == DOMAIN]
    if left:
        raise LoweringError(f"{target.value}: {_reason(model, rules, left[0])}")
    for graph_pass in (
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.IdentityEliminationPass(),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedOpsetsPass(),
        common.TopologicalSortPass(),
    ):
        graph_pass(model)
    write_attention(model, recipe.attention)
    for node in model.graph:
        node.metadata_props.clear()
    after = census(model)
    _logger.info("%s %s: %d nodes became %d", target.value, precision.value, sum(before.values()), sum(after.values()))
    for kind in sorted({*before, *after}, key=lambda kind: -after.get(kind, 0)):
        _logger.info("%6d -> %5d  %s", before.get(kind, 0), after.get(kind, 0), kind)
    return model


def census(model: ir.Model) -> dict[str, int]:
    """Return the number of nodes by operator, most frequent first."""
    counts = Counter(f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in model.graph)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _reason(model: ir.Model, rules: RewriteRuleSet, node: ir.Node) -> str:
    what = f"node {node.name} ({node.domain}::{node.op_type})"
    for rule in rules:
        tracer = MatchingTracer()
        rule.try_rewrite(model, model.graph, node, tracer=tracer)
        for results in tracer.best_matches_map.values():
            for found in results:
                if found.match_result.reason:
                    return f"{what}: {found.match_result.reason}"
    return f"no formulation for {what}"
