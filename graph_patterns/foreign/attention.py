"""Rewrite the `Attention` operator (opset 23 and newer) of other exporters as products and a softmax.

TensorRT-RTX 1.7 cannot build it in float32, and onnxruntime 1.31 does not broadcast a mask of one row.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from tofu_export.graph_patterns.attention.decomposed import attended, scored
from tofu_export.graph_patterns.foreign.proofs import proved_same
from tofu_export.graph_patterns.foreign.values import constant_of
from tofu_export.graph_patterns.stage import Stage

__all__ = ["lower_attention"]

_UNDERSTOOD = frozenset({"scale"})
"""Attributes that the form below supports. Any other must have its default value."""

_DEFAULTS = {
    "is_causal": 0,
    "left_window_size": -1,
    "q_num_heads": 0,
    "kv_num_heads": 0,
    "qk_matmul_output_mode": 0,
    "right_window_size": -1,
    "softcap": 0.0,
    "softmax_precision": 0,
}
"""Default values of attributes; 0 if not set. Source: onnx 1.23, Attention-23 to Attention-25."""

_INPUTS = ("query", "key", "value", "mask")
"""Supported inputs, in order, followed by those of a cache and of padded keys."""


def lower_attention(stage: Stage, node: ir.Node) -> ir.Value | str:
    """Return the replacement for the output of an `Attention` over [B, H, N, D], or why there is none.

    A query whose keys are all masked gives zeros, as in the operator.
    """
    for name, attribute in node.attributes.items():
        if name not in _UNDERSTOOD and (name not in _DEFAULTS or attribute.value != _DEFAULTS[name]):
            return f"its attribute {name} has no decomposed form here"
    if any(entry is not None for entry in node.inputs[len(_INPUTS) :]):
        return "it keeps keys and values of earlier calls, or has keys that do not count"
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return "more than its first output is used"
    query, key, value, mask = [*node.inputs, None][: len(_INPUTS)]
    if query is None or key is None or value is None or query.shape is None or key.shape is None or value.shape is None:
        return "the shapes of its inputs are not in the file"
    if query.dtype is None or not query.dtype == key.dtype == value.dtype:
        return "its inputs are not known to be of one type"
    shapes = query.shape, key.shape, value.shape
    if any(len(shape) != 4 for shape in shapes) or not all(
        proved_same(shape[1:2], query.shape[1:2]) for shape in shapes
    ):
        return "its inputs are not [B, H, N, D] with equal numbers of heads"
    width, scale = query.shape[3], node.attributes.get_float("scale", 0.0)
    if "scale" in node.attributes and not (np.isfinite(scale) and scale > 0):
        return f"its scale is {scale:g}"
    if not scale and not isinstance(width, int):
        return "the size of its heads is not fixed"
    if mask is not None and (reason := _misfit(mask, key.shape[2], query.dtype)):
        return reason
    factor = scale or float(width) ** -0.5  # type: ignore[arg-type]  # a symbol needs a scale
    scores, zero = scored(stage, query, key, factor), stage.floats("zero", 0.0, query.dtype)
    lowest = stage.constant("lowest", np.array(query.dtype.min, dtype=query.dtype.numpy()))
    if mask is None:
        return attended(stage, scores, value)
    if mask.dtype == ir.DataType.BOOL:
        scores = stage.add("Where", "masked", mask, scores, lowest)
        return attended(stage, scores, value, lambda weights: stage.add("Where", "open", mask, weights, zero))
    scores = stage.add("Add", "biased", scores, mask)
    if _is_moderate(mask, query.dtype):
        return attended(stage, scores, value)
    closed = stage.add("Less", "closed", scores, lowest)
    scores = stage.add("Max", "bounded", scores, lowest)
    return attended(stage, scores, value, lambda weights: stage.add("Where", "open", closed, zero, weights))


def _misfit(mask: ir.Value, keys: int | ir.SymbolicDim, dtype: ir.DataType) -> str:
    """Return why a mask does not fit the decomposed form, empty if it fits."""
    if mask.shape is None or mask.dtype is None:
        return "the shape of its mask is not in the file"
    if not 2 <= len(mask.shape) <= 4 or not proved_same(mask.shape[-1:], [keys]):
        return "its mask is not known to have an entry for every key"
    if mask.dtype not in (ir.DataType.BOOL, dtype):
        return f"its mask is of {mask.dtype.name}, and its query of {dtype.name}"
    return ""


def _is_moderate(mask: ir.Value, dtype: ir.DataType) -> bool:
    """True for a constant mask that makes no infinity of a finite score."""
    content = constant_of(mask)
    return content is not None and bool((np.abs(content.astype(np.float64)) < dtype.max / 2).all())  # false for NaN
