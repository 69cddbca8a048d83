"""Resolve branches on the rank of a tensor, in foreign graphs, if the rank is in the file.

The TorchScript exporter of PyTorch puts an `If` around every `scatter_reduce`, in case that its input is a scalar
(`symbolic_opset16.py`, torch 1.12 to 2.14). Shape inference stops there, so the next `If` can be resolved only after
shapes have been inferred again.
"""

from __future__ import annotations

import onnx_ir as ir

from tofu_export.graph_patterns.foreign.names import Names
from tofu_export.graph_patterns.foreign.shapes import Stated
from tofu_export.graph_patterns.foreign.values import constant_of, made_by

__all__ = ["settle_ranks"]


def settle_ranks(model: ir.Model) -> tuple[list[str], Stated]:
    """Replace each `If` on a known rank by the branch that is taken.

    Requires: shapes as far as they can be inferred.

    Returns:
        The names of the replaced nodes, and the type and shape to state for the values of their branches, whose own
        are wrong there.
    """
    settled: list[str] = []
    stated: Stated = {}
    names = Names(model)
    for node in list(model.graph.all_nodes()):
        if node.op_type != "If" or node.domain not in ("", "ai.onnx") or node.graph is None:
            continue
        scalar = _is_scalar(node.inputs[0])
        if scalar is None:
            continue
        branch = node.attributes["then_branch" if scalar else "else_branch"].as_graph()
        inner, results = list(branch), list(branch.outputs)
        made = {value for entry in inner for value in entry.outputs}
        if branch.initializers or not made.issuperset(results) or len(set(results)) < len(results):
            continue
        outputs = [output for output in node.outputs if output.is_graph_output()]
        named = [(output.name, output.type, output.shape) for output in outputs]
        kept = [result for result, output in zip(results, node.outputs, strict=True) if output in outputs]
        branch.outputs.clear()
        branch.remove(inner)
        names.set_apart(inner)
        node.graph.insert_before(node, inner)
        for value in made:
            value.shape = None
            stated[value] = None, None
        ir.convenience.replace_all_uses_with(node.outputs, results, replace_graph_outputs=True)
        node.graph.remove(node, safe=True)
        for result, (name, kind, shape) in zip(kept, named, strict=True):  # outputs of a graph keep their names
            result.name, result.type = name, kind
            stated[result] = kind, shape  # which may be of the other branch: the shape is inferred again
        settled.append(node.name or "")
    return settled, stated


def _is_scalar(condition: ir.Value | None) -> bool | None:
    """Return whether `condition`, that the rank of a tensor is 0, holds; None for other conditions or if unknown."""
    equal = made_by(condition, "Equal")
    size = None if equal is None else made_by(equal.inputs[0], "Size")
    shape = None if size is None else made_by(size.inputs[0], "Shape")
    if equal is None or shape is None or shape.attributes:  # of a part of the shape: the rank of something else
        return None
    if shape.inputs[0] is None or shape.inputs[0].shape is None:
        return None
    asked = constant_of(equal.inputs[1])
    return None if asked is None or asked.size != 1 or int(asked.item()) != 0 else len(shape.inputs[0].shape) == 0
