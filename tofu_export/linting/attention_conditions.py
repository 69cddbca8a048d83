"""Conditions on the `Attention` operator: forms that a runtime rejects or ignores."""

from __future__ import annotations

import onnx
from onnx import TensorProto

from tofu_export.linting.graph import Axis, Scope, attribute_int

__all__ = [
    "MAX_HEAD_SIZE",
    "MIN_HEAD_SIZE",
    "fp32_attention",
    "has_softmax_precision",
    "ignores_a_window",
    "keeps_a_cache",
    "mask_does_not_broadcast",
    "mask_of_another_shape",
    "mask_of_another_type",
    "mask_with_causal_order",
    "narrow_heads",
    "other_width_of_values",
    "wide_heads",
]

MIN_HEAD_SIZE, MAX_HEAD_SIZE = 9, 256
"""Head sizes for which TensorRT-RTX is known to have a fused attention kernel."""

_QUERY, _KEY, _VALUE, _MASK, _PAST_KEY, _PAST_VALUE = range(6)


def fp32_attention(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report an Attention in FP32."""
    if scope.dtype(node) != TensorProto.FLOAT or _is_plain(node, scope):
        return None
    return "has no fused FP32 kernel, and the parser does not let it run as several kernels"


def wide_heads(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report an Attention in half precision whose heads are wider than any known fused kernel supports."""
    size = _head_size(node, scope)
    if size is None or size <= MAX_HEAD_SIZE:
        return None
    return f"head size {size} is over {MAX_HEAD_SIZE}, for which no fused kernel is known"


def narrow_heads(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report an Attention in half precision whose heads are narrower than any known fused kernel supports."""
    size = _head_size(node, scope)
    if size is None or size >= MIN_HEAD_SIZE:
        return None
    return f"head size {size} is below {MIN_HEAD_SIZE}, for which no fused kernel is known"


def other_width_of_values(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report an Attention whose values are wider or narrower than its queries."""
    query, value = _shape(node, scope, _QUERY), _shape(node, scope, _VALUE)
    if len(query) != 4 or len(value) != 4 or _may_be_equal(query[-1], value[-1]):
        return None
    return f"has values of width {value[-1]} and queries of width {query[-1]}"


def mask_does_not_broadcast(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report an Attention whose mask has one row for all queries, as a bias per key has."""
    query, mask = _shape(node, scope, _QUERY), _shape(node, scope, _MASK)
    if len(query) < 3 or len(mask) < 2:
        return None
    if mask[-2] != 1 or query[-2] == 1:
        return None
    return f"the mask {_text(mask)} has one row for all queries, which onnxruntime does not broadcast"


def mask_of_another_shape(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report an Attention whose mask does not broadcast to its scores [B, H, N, M]."""
    query, key, mask = (_shape(node, scope, place) for place in (_QUERY, _KEY, _MASK))
    if len(query) not in (3, 4) or len(key) != len(query):
        return None
    heads: Axis = query[1] if len(query) == 4 else attribute_int(node, "q_num_heads") or "?"
    scores = (query[0], heads, query[-2], key[-2])
    pairs = zip(mask[::-1], scores[::-1], strict=False)
    if all(size == 1 or _may_be_equal(size, wanted) for size, wanted in pairs):
        return None
    return f"the mask {_text(mask)} does not broadcast to the scores {_text(scores)}"


def mask_of_another_type(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report an Attention whose mask is neither boolean nor of the type of its queries."""
    if len(node.input) <= _MASK or not node.input[_MASK]:
        return None
    mask, query = (scope.dtypes.get(node.input[place], 0) for place in (_MASK, _QUERY))
    if not mask or not query or mask in (TensorProto.BOOL, query):
        return None
    return f"has a mask in {TensorProto.DataType.Name(mask)} and queries in {TensorProto.DataType.Name(query)}"


def mask_with_causal_order(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report an Attention that is causal and has a mask besides."""
    masked = len(node.input) > _MASK and node.input[_MASK]
    return (
        "is causal and has a mask, of which TensorRT takes one" if masked and attribute_int(node, "is_causal") else None
    )


def keeps_a_cache(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report an Attention with keys or values of earlier calls."""
    past = [name for name in node.input[_PAST_KEY : _PAST_VALUE + 1] if name]
    return f"has the input {past[0]!r} of earlier keys or values" if past else None


def ignores_a_window(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report an Attention over a window of keys, which the parser passes over."""
    sizes = {name: attribute_int(node, name) for name in ("left_window_size", "right_window_size")}
    named = [name for name, size in sizes.items() if size is not None and size >= 0]
    return f"attribute {named[0]} is passed over: keys outside of the window count" if named else None


def has_softmax_precision(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report an Attention that states the type of its softmax."""
    named = any(attribute.name == "softmax_precision" for attribute in node.attribute)
    return "attribute softmax_precision is not supported" if named else None


def _is_plain(node: onnx.NodeProto, scope: Scope) -> bool:
    """True for three inputs [B, N, C] with equal heads, no mask and no causal order, which the parser reshapes."""
    heads = attribute_int(node, "q_num_heads"), attribute_int(node, "kv_num_heads")
    rank = len(_shape(node, scope, _QUERY))
    return rank == 3 and len(node.input) == 3 and heads[0] == heads[1] and not attribute_int(node, "is_causal")


def _head_size(node: onnx.NodeProto, scope: Scope) -> int | None:
    """Return the size of the heads of an Attention that needs a fused kernel; None if it is in FP32, or not known."""
    shape = _shape(node, scope, _QUERY)
    if scope.dtype(node) == TensorProto.FLOAT or len(shape) not in (3, 4) or _is_plain(node, scope):
        return None
    size = shape[-1]
    if len(shape) == 3:
        heads = attribute_int(node, "q_num_heads")
        size = size // heads if isinstance(size, int) and heads else "?"
    return size if isinstance(size, int) else None


def _shape(node: onnx.NodeProto, scope: Scope, place: int) -> tuple[Axis, ...]:
    """Return the shape of an input, empty if it is missing or not known."""
    return scope.shapes.get(node.input[place], ()) if len(node.input) > place else ()


def _may_be_equal(one: Axis, other: Axis) -> bool:
    return one == other or not (isinstance(one, int) and isinstance(other, int))


def _text(shape: tuple[Axis, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
