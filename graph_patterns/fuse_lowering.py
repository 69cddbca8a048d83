"""Replace every `tofu::Fuse` by matching, gathering and merging.

The operator has optional inputs, and one output for each of those that are given. A rewrite rule has a fixed number of
both, so this is a function over the nodes.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.tape import Tape

from tofu_export.errors import LoweringError
from tofu_export.graph_patterns.canonical import DOMAIN, FuseNode
from tofu_export.graph_patterns.formulation import Formulation
from tofu_export.graph_patterns.matching import MAX_TOPK, similarity
from tofu_export.graph_patterns.merging import Members
from tofu_export.graph_patterns.selection import gather_sources, joining_rows
from tofu_export.graph_patterns.stage import Stage, TapeOperators
from tofu_export.graph_patterns.token_map import follow

__all__ = ["lower_fuses"]

_METHODS = ("prune", "average", "mlerp", "tome")


def lower_fuses(model: ir.Model, formulation: Formulation) -> None:
    """Replace every `tofu::Fuse` of `model`, in place.

    Args:
        model: a canonical graph.
        formulation: how to match and how to merge.

    Raises:
        LoweringError: a node cannot be lowered; the message names it, and says why.
    """
    for node in list(model.graph):
        if (node.domain, node.op_type) != (DOMAIN, "Fuse"):
            continue
        if problem := _problem(node):
            raise LoweringError(f"node {node.name} (tofu::Fuse): {problem}")
        tape = Tape()
        lowered = _lower(TapeOperators(tape), node, formulation)
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], tape.nodes, node.outputs, lowered)


def _problem(node: ir.Node) -> str | None:
    """Why a node cannot be lowered, None if it can."""
    given = [value for value in node.inputs[:2] if value is not None]
    if len(given) < 2 or len(node.outputs) != 1 + len(FuseNode.companions_of(node)):
        return f"it has {len(node.inputs)} inputs and {len(node.outputs)} outputs, see graph_patterns/canonical.py"
    fuse = FuseNode.read(node)
    if fuse.method not in _METHODS:
        return f"layer {fuse.layer}: unknown method {fuse.method!r}"
    if fuse.sources > MAX_TOPK:
        return (
            f"layer {fuse.layer} has {fuse.sources} source tokens, but TensorRT sorts at most {MAX_TOPK}: "
            "use a smaller --image-size or a larger patch"
        )
    return None


def _lower(op: TapeOperators, node: ir.Node, formulation: Formulation) -> list[ir.Value]:
    """What stands for the outputs of `node`, in their order."""
    fuse = FuseNode.read(node)
    stage = Stage(op, fuse.stage)
    x, metric = node.inputs[:2]
    assert x is not None and metric is not None
    companions = FuseNode.companions_of(node)
    sizes = companions.get("sizes")
    decisions = formulation.match(stage, fuse, similarity(stage, fuse, metric))

    def joining(name: str, values: ir.Value) -> ir.Value:
        return joining_rows(stage, fuse, f"{name}/joining", values, decisions.matched)

    def destinations_of(name: str, values: ir.Value) -> ir.Value:
        return stage.slice(f"{name}/destinations", values, fuse.first_destination, step=2)

    def assemble(name: str, values: ir.Value, destinations: ir.Value) -> ir.Value:
        parts = [destinations]
        if decisions.kept is not None:
            parts.insert(0, gather_sources(stage, fuse, f"{name}/kept", values, decisions.kept))
        if fuse.prefix:
            parts.insert(0, stage.slice(f"{name}/prefix", values, 0, stop=fuse.prefix))
        return stage.add("Concat", name, *parts, axis=1) if len(parts) > 1 else parts[0]

    destinations = destinations_of("tokens", x)
    destination_sizes = None if sizes is None else destinations_of("sizes", sizes)
    if fuse.merges:
        assert decisions.target is not None  # where something merges
        members = Members(
            destinations,
            joining("tokens", x),
            decisions.target,
            destination_sizes,
            None if sizes is None else joining("sizes", sizes),
        )
        destinations, destination_sizes = formulation.merge(stage, fuse, members)
    lowered = [assemble("tokens", x, destinations)]
    for name, values in companions.items():
        if name == "sizes":
            assert destination_sizes is not None  # sizes went in
            lowered.append(assemble(name, values, destination_sizes))
        elif name == "positions":
            lowered.append(assemble(name, values, destinations_of(name, values)))
        else:
            assert decisions.matched is not None and decisions.target is not None  # asked for by `mapped`
            lowered.append(follow(stage, fuse, values, decisions.kept, decisions.matched, decisions.target))
    return lowered
