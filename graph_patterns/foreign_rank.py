"""Branches on the rank of a tensor, in graphs of others: settled where the rank is in the file.

The TorchScript exporter of PyTorch puts an `If` around every `scatter_reduce`, in case that its input is a scalar
(`symbolic_opset16.py`, torch 1.12 to 2.14). No shape passes through it, so that nothing is known behind it.
"""

from __future__ import annotations

import onnx_ir as ir

from tofu_export.graph_patterns.foreign_values import constant_of, made_by

__all__ = ["settle_ranks"]


def settle_ranks(model: ir.Model) -> list[str]:
    """Put the branch that is taken in the place of each such `If`; the names of these.

    Requires: shapes as far as they can be inferred.
    """
    settled = []
    for node in list(model.graph):
        if node.op_type != "If" or node.domain not in ("", "ai.onnx"):
            continue
        scalar = _is_scalar(node.inputs[0])
        if scalar is None:
            continue
        branch = node.attributes["then_branch" if scalar else "else_branch"].as_graph()
        if branch.initializers:
            continue
        results, inner = list(branch.outputs), list(branch)
        for entry in inner:
            for value in entry.outputs:
                value.shape = None  # what is stated there holds for neither branch
        branch.outputs.clear()
        branch.remove(inner)
        model.graph.insert_before(node, inner)
        ir.convenience.replace_all_uses_with(node.outputs, results, replace_graph_outputs=True)
        model.graph.remove(node, safe=True)
        settled.append(node.name or "")
    return settled


def _is_scalar(condition: ir.Value | None) -> bool | None:
    """Whether `condition`, that the rank of some tensor is 0, holds; None if it asks something else or nobody knows."""
    equal = made_by(condition, "Equal")
    size = None if equal is None else made_by(equal.inputs[0], "Size")
    shape = None if size is None else made_by(size.inputs[0], "Shape")
    if equal is None or shape is None or shape.inputs[0] is None or shape.inputs[0].shape is None:
        return None
    asked = constant_of(equal.inputs[1])
    return None if asked is None or asked.size != 1 or int(asked.item()) != 0 else len(shape.inputs[0].shape) == 0
