"""Find attention in a lowered graph: two products of activations with a softmax between them."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

__all__ = ["Attention", "attentions_of"]


@dataclass(frozen=True)
class Attention:
    """Nodes of `softmax(q k^T + bias) v`.

    Attributes:
        scores: product of scaled queries and transposed keys.
        softmax: softmax of the scores, or of scores and bias.
        attended: product of the softmax and the values.
    """

    scores: ir.Node
    softmax: ir.Node
    attended: ir.Node


def attentions_of(model: ir.Model) -> list[Attention]:
    """Find all attention of a lowered graph, in graph order.

    An attention with more than a bias between its products, such as the talking heads of CaiT, or with a softmax over
    another axis than the keys, is not included.
    """
    found = (_around(node) for node in model.graph if node.op_type == "Softmax")
    return [attention for attention in found if attention is not None]


def _around(softmax: ir.Node) -> Attention | None:
    """Return the attention that a softmax belongs to."""
    if softmax.attributes.get_int("axis", -1) not in (-1, 3):
        return None
    scores = _product(softmax.inputs[0])
    if scores is None and (biased := _producer(softmax.inputs[0], "Add")) is not None:
        scores = next(filter(None, map(_product, biased.inputs)), None)
    readers = list(softmax.outputs[0].uses())
    if scores is None or len(readers) != 1:
        return None
    ((attended, index),) = readers
    if attended.op_type != "MatMul" or index != 0 or not _is_activation(attended.inputs[1]):
        return None
    return Attention(scores, softmax, attended)


def _product(value: ir.Value | None) -> ir.Node | None:
    """Return the product of two activations that computes a value."""
    node = _producer(value, "MatMul")
    return node if node is not None and all(map(_is_activation, node.inputs)) else None


def _producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op_type else None


def _is_activation(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is None
