"""Count the multiply-accumulates of a canonical graph."""

from __future__ import annotations

import math

import onnx_ir as ir

from tofu_export.graph_patterns.canonical import DOMAIN

__all__ = ["count_macs"]

_ATTENTION = frozenset({"Attention", "BiasedAttention"})


class _UnknownShapeError(Exception):
    """Error for a shape that is not in the graph."""


def count_macs(model: ir.Model) -> int | None:
    """Return the multiply-accumulates of all products and convolutions of a canonical graph, for one image.

    None if a shape is missing, which the exporter never leaves out.

    The cost of reductions and of norms is not included (together below 1 % of a vision transformer). A plan includes
    the norms, and also the tokens that lowering drops as unread (`graph_patterns.tail`).
    """
    try:
        batch = _shape(model.graph.inputs[0])[0] if model.graph.inputs else 1
        return sum(_macs(node) for node in model.graph) // batch
    except _UnknownShapeError:
        return None


def _macs(node: ir.Node) -> int:
    if node.domain == DOMAIN:
        if node.op_type not in _ATTENTION:
            return 0
        query, key, value = (_shape(node.inputs[index]) for index in range(3))
        return math.prod(query[:3]) * key[2] * (query[3] + value[3])
    if node.op_type == "MatMul":
        return math.prod(_shape(node.outputs[0])) * _shape(node.inputs[0])[-1]
    if node.op_type == "Gemm":
        rows = _shape(node.inputs[0])
        return math.prod(_shape(node.outputs[0])) * rows[0 if node.attributes.get_int("transA", 0) else 1]
    if node.op_type == "Conv":
        return math.prod(_shape(node.outputs[0])) * math.prod(_shape(node.inputs[1])[1:])
    return 0


def _shape(value: ir.Value | None) -> tuple[int, ...]:
    """Return the sizes of a value, with 1 for a symbolic size (the batch)."""
    if value is None or value.shape is None:
        raise _UnknownShapeError
    return tuple(size if isinstance(size, int) else 1 for size in value.shape)
