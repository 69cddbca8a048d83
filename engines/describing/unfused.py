"""Explain why attention was not fused into one kernel, as far as its nodes tell.

What fuses in TensorRT-RTX 1.7.1 was tried one by one, in FP16 for SM89: heads of 16 to 256 numbers (not 8 or 288), a
bias for each key or for each score, a mask by Where, the scale before or after the product, and a softmax between two
casts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx
from onnx import TensorProto

__all__ = ["reasons_of"]

_PASSED = frozenset({"Add", "Mul", "Div", "Where", "Cast", "Sub", "Reshape", "Identity"})
"""Operators between the product of queries and keys and the softmax."""
_STEPS = 12
_LEAST_HEAD, _MOST_HEAD = 16, 256


def reasons_of(graph: onnx.GraphProto, names: Iterable[str]) -> dict[str, str]:
    """Return the likely reasons why attentions are not one kernel, by the name of the softmax; others are left out.

    Args:
        graph: graph that the engine was built from.
        names: names of the softmaxes.
    """
    producers = {name: node for node in graph.node for name in node.output}
    widths = _widths(graph)
    wanted = set(names)
    found = {
        node.name: _reason(node, producers, widths)
        for node in graph.node
        if node.name in wanted and node.op_type == "Softmax"
    }
    return {name: reason for name, reason in found.items() if reason}


def _reason(softmax: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto], widths: Mapping[str, int]) -> str:
    between, product = _upwards(softmax, producers)
    operators = [node.op_type for node in between]
    if any(_is_largest(node, producers) for node in between if node.op_type == "Sub"):
        return "its largest score is subtracted before the softmax"
    if product is None:
        return "its scores are no product of queries and keys"
    if any(_widens(producers.get(name)) for name in product.input):
        return "its products are in FP32"
    keys = producers.get(product.input[1])
    sizes = [
        widths[name] for name in (product.input[0], *(keys.input[:1] if keys is not None else ())) if name in widths
    ]
    if sizes and not _LEAST_HEAD <= sizes[0] <= _MOST_HEAD:
        return f"its heads have {sizes[0]} numbers, and kernels are for {_LEAST_HEAD} to {_MOST_HEAD}"
    if "Cast" in operators:
        return "its softmax is in another type than its products"
    return ""


def _upwards(
    softmax: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto]
) -> tuple[list[onnx.NodeProto], onnx.NodeProto | None]:
    """Return the nodes between a softmax and the product before it, and that product."""
    between: list[onnx.NodeProto] = []
    waiting = [softmax.input[0]]
    for _ in range(_STEPS):
        node = producers.get(waiting.pop(0)) if waiting else None
        if node is None:
            if not waiting:
                break
            continue
        if node.op_type == "MatMul":
            return between, node
        if node.op_type in _PASSED:
            between.append(node)
            waiting += node.input
    return between, None


def _is_largest(node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto]) -> bool:
    return any(producers[name].op_type == "ReduceMax" for name in node.input if name in producers)


def _widens(node: onnx.NodeProto | None) -> bool:
    """True for a cast to FP32."""
    return (
        node is not None
        and node.op_type == "Cast"
        and any(entry.name == "to" and entry.i == TensorProto.FLOAT for entry in node.attribute)
    )


def _widths(graph: onnx.GraphProto) -> dict[str, int]:
    """Return the last size of every value whose shape the file states."""
    found: dict[str, int] = {}
    for value in (*graph.value_info, *graph.input):
        dims = value.type.tensor_type.shape.dim
        if dims and dims[-1].dim_value > 0:
            found[value.name] = dims[-1].dim_value
    return found
