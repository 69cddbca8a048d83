"""Rewrite graphs of other exporters, so that a target accepts them and computes the same.

Only known operators are changed, each occurrence separately. What cannot be rewritten is left unchanged and reported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes import common
from onnx_ir.tape import Tape

from tofu_export.errors import LoweringError
from tofu_export.graph_patterns.canonical import DOMAIN
from tofu_export.graph_patterns.foreign.attention import lower_attention
from tofu_export.graph_patterns.foreign.mask import listed_mask, lower_masked
from tofu_export.graph_patterns.foreign.names import Names
from tofu_export.graph_patterns.foreign.rank import settle_ranks
from tofu_export.graph_patterns.foreign.scatter import lower_scatter, lower_scatter_nd, reduction_of
from tofu_export.graph_patterns.foreign.shapes import infer, infer_from_inputs, values_of
from tofu_export.graph_patterns.stage import Stage, TapeOperators
from tofu_export.options import Target

__all__ = ["Change", "rewrite"]

_KNOWN = frozenset({"Attention", "If", "ScatterElements", "ScatterND"})
_FREE_INITIALIZERS = 4
"""First version of the file format in which an initializer need not be an input as well."""
_HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_TENSORRTS = frozenset({Target.PORTABLE, Target.TENSORRT, Target.TENSORRT_RTX})


@dataclass(frozen=True)
class Change:
    """Result for one node that a target does not accept.

    Attributes:
        node: name of the node.
        op_type: its operator.
        left: why it was left unchanged, empty if it was rewritten.
    """

    node: str
    op_type: str
    left: str = ""


def rewrite(model: ir.Model, target: Target) -> tuple[Change, ...]:
    """Rewrite nodes that a target does not accept, in place, also in sub-graphs, and return what was found.

    Ensures: values of the graph keep their names, and their stated types and shapes, except those that contradict its
    inputs, and an output with another rank; unused nodes are gone. Functions with such nodes are inlined where they
    are called. Nothing else changes.

    Raises:
        LoweringError: the graph holds canonical nodes of this project, which are lowered at export.
    """
    if any(node.domain == DOMAIN for node in model.graph):
        raise LoweringError("the file has canonical Token Fusion nodes: export it again for the target instead")
    if any(node.op_type in _KNOWN for function in model.functions.values() for node in function.all_nodes()):
        common.InlinePass(lambda function: not _other_opsets(function, model))(model)
    stated = infer_from_inputs(model)
    changes: list[Change] = []
    while target in _TENSORRTS:  # after such a branch nothing is known until shapes are inferred again
        settled, facts = settle_ranks(model)
        if not settled:
            break
        changes += [Change(name, "If") for name in settled]
        stated |= facts
        infer(model)
    opset = model.opset_imports.get("") or model.opset_imports.get("ai.onnx", 0)
    names, seen = Names(model), set[str]()
    for number, node in enumerate(list(model.graph.all_nodes())):
        lowering = _lowering(node, target, opset, inside=node.graph is not model.graph)
        if lowering is None or node.graph is None:
            continue
        name = node.name or node.op_type
        if name in seen or not node.name:
            name = f"{name}_{number}"
        seen.add(name)
        tape = Tape()
        result = lowering(Stage(TapeOperators(tape), names.unused_prefix(f"{name}/lowered")))
        if isinstance(result, str):
            changes.append(Change(name, node.op_type, result))
            continue
        ir.convenience.replace_nodes_and_values(node.graph, node, [node], tape.nodes, node.outputs[:1], [result])
        if (fact := stated.pop(node.outputs[0], None)) is not None:
            stated[result] = fact
        changes.append(Change(name, node.op_type))
    changes += _left_in_functions(model, target, opset)
    for value in values_of(model):
        inferred = value.shape
        value.type, value.shape = stated.get(value, (None, None))
        if value.is_graph_output() and _differ_in_rank(value.shape, inferred):
            value.shape = inferred
    if any(not change.left for change in changes):
        model.ir_version = max(model.ir_version, _FREE_INITIALIZERS)
        for graph_pass in (
            common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            common.RemoveUnusedNodesPass(),
            common.TopologicalSortPass(),
        ):
            graph_pass(model)
    return tuple(changes)


def _differ_in_rank(stated: ir.Shape | None, inferred: ir.Shape | None) -> bool:
    return stated is not None and inferred is not None and len(stated) != len(inferred)


def _other_opsets(function: ir.Function, model: ir.Model) -> list[str]:
    """Return the operator sets of which a function imports another version than the model, as words."""
    return [
        f"{domain or 'ai.onnx'} {version}"
        for domain, version in function.opset_imports.items()
        if model.opset_imports.get(domain, version) != version
    ]


def _left_in_functions(model: ir.Model, target: Target, opset: int) -> list[Change]:
    """Return the nodes of functions that were not inlined, because they are of other operator sets than the model."""
    return [
        Change(
            node.name or node.op_type,
            node.op_type,
            f"it is in the function {function.name!r} of {' and '.join(_other_opsets(function, model))}, which "
            "the file imports in another version",
        )
        for function in model.functions.values()
        for node in function.all_nodes()
        if _other_opsets(function, model) and _lowering(node, target, opset, inside=True) is not None
    ]


def _lowering(node: ir.Node, target: Target, opset: int, *, inside: bool) -> Callable[[Stage], ir.Value | str] | None:
    """Return the rewrite of a node that the target does not accept; None if it is accepted or unknown.

    Args:
        node: the node.
        target: the runtime.
        opset: opset of the graph.
        inside: the node is in a sub-graph, where TensorRT-RTX has no fused attention.
    """
    if node.domain not in ("", "ai.onnx"):
        return None
    kind = node.inputs[0].dtype if node.inputs and node.inputs[0] is not None else None
    if node.op_type in ("ScatterElements", "ScatterND") and reduction_of(node) != "none":
        if target in _TENSORRTS or kind in _HALVES:  # onnxruntime's CPU provider adds in float32 only
            form = lower_scatter if node.op_type == "ScatterElements" else lower_scatter_nd
            return lambda stage: form(stage, node, opset)
    elif node.op_type == "ScatterND" and listed_mask(node.inputs[1]) is not None and target in _TENSORRTS:
        return lambda stage: lower_masked(stage, node, opset)
    elif node.op_type == "Attention" and (target is Target.ONNXRUNTIME or inside or kind not in _HALVES):
        return lambda stage: lower_attention(stage, node)
    return None
