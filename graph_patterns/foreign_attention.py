"""The `Attention` operator (opset 23) of other exporters, as products and a softmax.

TensorRT-RTX 1.7 cannot build it in float32, and onnxruntime 1.31 does not broadcast a mask of one row.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from tofu_export.graph_patterns.attention_decomposed import decomposed
from tofu_export.graph_patterns.stage import Stage

__all__ = ["lower_attention"]

_ALONE = ("is_causal", "kv_num_heads", "q_num_heads", "softcap", "softmax_precision", "qk_matmul_output_mode")
"""Attributes that change what it computes, other than the scale."""


def lower_attention(stage: Stage, node: ir.Node) -> ir.Value | str:
    """What stands for the output of an `Attention` over [B, H, N, D], or why there is nothing."""
    query, key, value, mask, *rest = [*node.inputs, None, None, None][:6]
    set_ones = [name for name in _ALONE if name in node.attributes and node.attributes[name].value]
    if set_ones:
        return f"its attribute {set_ones[0]} has no decomposed form here"
    if any(entry is not None for entry in rest) or any(output.uses() for output in node.outputs[1:]):
        return "it keeps keys and values of earlier calls"
    if query is None or key is None or value is None or query.shape is None or key.shape is None:
        return "the shapes of its inputs are not in the file"
    if len(query.shape) != 4 or query.shape[1] != key.shape[1]:
        return "its inputs are not [B, H, N, D] with equal numbers of heads"
    width = query.shape[3]
    scale = node.attributes.get_float("scale", 0.0)
    if not scale and not isinstance(width, int):
        return "the size of its heads is not fixed"
    if query.dtype is None:
        return "the type of its inputs is not in the file"
    if mask is not None and mask.dtype == ir.DataType.BOOL:
        open_, closed = (stage.constant(name, np.array(number, dtype=query.dtype.numpy()))
                         for name, number in (("open", 0.0), ("closed", -np.inf)))  # fmt: skip
        mask = stage.add("Where", "mask", mask, open_, closed)
    return decomposed(stage, query, key, value, mask, scale or float(width) ** -0.5)  # type: ignore[arg-type]
