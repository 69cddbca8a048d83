"""Replace every `tofu::Fuse` by matching, gathering and merging.

The operator has optional inputs, and one output for each that is given. A rewrite rule has a fixed number of both, so
this is a function over the nodes.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.tape import Tape

from tofu_export.errors import LoweringError
from tofu_export.graph_patterns.canonical import DOMAIN, IMPORTANCE, FuseNode
from tofu_export.graph_patterns.fuse.formulation import Formulation
from tofu_export.graph_patterns.fuse.matching import MAX_TOPK, Decisions
from tofu_export.graph_patterns.fuse.merging import Members, Merged, Weights
from tofu_export.graph_patterns.fuse.rows import gather_sources, joining_rows, take
from tofu_export.graph_patterns.fuse.selections import SELECTIONS, Inputs
from tofu_export.graph_patterns.fuse.token_map import follow, follow_groups
from tofu_export.graph_patterns.stage import Stage, TapeOperators
from tofu_export.options import Selection

__all__ = ["lower_fuses"]

_METHODS = ("prune", "average", "mlerp", "weighted_mlerp", "tome")
_MAPS = {"rows", "groups"}
"""Companions that follow from decisions alone."""


def lower_fuses(model: ir.Model, formulation: Formulation) -> None:
    """Replace every `tofu::Fuse` of `model`, in place.

    Args:
        model: a canonical graph.
        formulation: how to match and how to merge.

    Raises:
        LoweringError: a node cannot be lowered; the message names it, and says why.
    """
    for node in reversed(list(model.graph)):  # in reverse order: whether one uses sizes matters to those before it
        if (node.domain, node.op_type) != (DOMAIN, "Fuse"):
            continue
        if problem := _problem(node):
            raise LoweringError(f"node {node.name} (tofu::Fuse): {problem}")
        tape = Tape()
        lowered = _lower(TapeOperators(tape), node, formulation)
        ir.convenience.replace_nodes_and_values(
            model.graph, node, [node], tape.nodes, list(lowered), list(lowered.values())
        )


def _problem(node: ir.Node) -> str | None:
    """Return why a node cannot be lowered, None if it can."""
    companions = FuseNode.companions_of(node)
    tokens, metric = (*node.inputs, None, None)[:2]
    needs_tokens = bool(node.outputs[0].uses()) or not companions.keys() <= _MAPS
    needs_metric = _importance(node) is None
    missing = (metric is None and needs_metric) or (tokens is None and needs_tokens)
    if missing or len(node.outputs) != 1 + len(companions):
        return f"it has {len(node.inputs)} inputs and {len(node.outputs)} outputs, see graph_patterns/canonical.py"
    select = node.attributes.get_string("select")
    if select is not None and select not in [known.value for known in Selection]:
        return f"unknown selection {select!r}"
    fuse = FuseNode.read(node)
    if fuse.select.reads_importance and _importance(node) is None:
        return f"layer {fuse.layer}: {fuse.select.value} needs the input importance"
    if fuse.method not in _METHODS:
        return f"layer {fuse.layer}: unknown method {fuse.method!r}"
    if fuse.sources > MAX_TOPK:
        return (
            f"layer {fuse.layer} has {fuse.sources} source tokens, but TensorRT sorts at most {MAX_TOPK}: "
            "use a smaller --image-size or a larger patch"
        )
    return None


def _importance(node: ir.Node) -> ir.Value | None:
    return node.inputs[IMPORTANCE] if len(node.inputs) > IMPORTANCE else None


def _lower(op: TapeOperators, node: ir.Node, formulation: Formulation) -> dict[ir.Value, ir.Value]:
    """Return the replacement for each output of `node` that is read."""
    fuse = FuseNode.read(node)
    stage = Stage(op, fuse.stage)
    x, metric = node.inputs[:2]
    companions = FuseNode.companions_of(node)
    sizes = companions.get("sizes") if fuse.sized or fuse.weighs else None
    importance = _importance(node)
    decisions = SELECTIONS[fuse.select](stage, fuse, formulation, Inputs(metric, importance))
    merged: Merged | None = None
    lowered: dict[ir.Value, ir.Value] = {}
    if x is not None:
        merged = _merged(stage, fuse, formulation, decisions, x, sizes, importance)
        lowered[node.outputs[0]] = merged.tokens
    for output, (name, values) in zip(node.outputs[1:], companions.items(), strict=True):
        if name == "rows":
            lowered[output] = follow(stage, fuse, values, decisions)
        elif name == "groups":
            lowered[output] = follow_groups(stage, fuse, values, decisions)
        elif name == "positions":
            lowered[output] = _assembled(stage, fuse, decisions, name, values)
        elif fuse.sized:
            assert merged is not None and merged.sizes is not None  # sizes went in, with the tokens
            lowered[output] = merged.sizes
    return lowered


def _merged(
    stage: Stage,
    fuse: FuseNode,
    formulation: Formulation,
    decisions: Decisions,
    x: ir.Value,
    sizes: ir.Value | None,
    importance: ir.Value | None,
) -> Merged:
    """Return tokens, and their sizes if read, after sources have joined their destinations."""
    rows = _assembled(stage, fuse, decisions, "tokens", x)
    row_sizes = None if sizes is None else _assembled(stage, fuse, decisions, "sizes", sizes)
    if not fuse.merges and (sizes is None or not fuse.takes_over):
        return Merged(rows, row_sizes)

    def joining(name: str, values: ir.Value) -> ir.Value:
        return joining_rows(stage, fuse, f"{name}/joining", values, decisions.matched)

    assert decisions.target is not None  # if something joins
    theirs = joining("tokens", x) if fuse.merges else None
    counts = None if sizes is None or row_sizes is None else Weights(row_sizes, joining("sizes", sizes))
    weights = counts if fuse.weighs else None
    if importance is not None and fuse.merges:
        column = stage.add("Unsqueeze", "importance/column", importance, stage.ints("importance/axis", -1))
        weights = Weights(_assembled(stage, fuse, decisions, "importance", column), joining("importance", column))
    return formulation.merge(stage, fuse, Members(rows, theirs, decisions.target, counts, weights))


def _assembled(stage: Stage, fuse: FuseNode, decisions: Decisions, name: str, values: ir.Value) -> ir.Value:
    """Assemble `values` [B, N, *] for the output tokens, [B, N', *]: prefix, kept sources, destinations."""
    parts = []
    if not fuse.roles.pooled:
        parts.append(take(stage, f"{name}/destinations", values, fuse.roles.destinations))
    if decisions.kept is not None:
        parts.insert(0, gather_sources(stage, fuse, f"{name}/kept", values, decisions.kept))
    if fuse.prefix:
        parts.insert(0, stage.slice(f"{name}/prefix", values, 0, stop=fuse.prefix))
    return stage.add("Concat", name, *parts, axis=1) if len(parts) > 1 else parts[0]
