"""Quantise the factors of attention: queries, keys and values by measured range, the softmax by possible range.

The form is the one that TensorRT fuses into one kernel with 8 bits in: quantised and dequantised directly before
each product, with the scale and the transposition of the keys before that. Source: NVIDIA's recipe for Vision
Transformers in FP8 (Model-Optimizer, `modelopt.onnx.quantization`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from tofu_export.graph_patterns.attention.find import Attention
from tofu_export.graph_patterns.quantized.form import Form
from tofu_export.graph_patterns.quantized.pair import quantized_and_back

__all__ = ["LARGEST_WEIGHT", "factors_of", "has_one_query", "measured", "quantize_attention"]

LARGEST_WEIGHT = 1.0
"""Largest value of a softmax, which sets its scale for all images."""


def factors_of(attention: Attention) -> Iterator[tuple[ir.Node, int, ir.Value]]:
    """Yield the factors of an attention's products: node, index of its input, and the value there."""
    for node in (attention.scores, attention.attended):
        for index, value in enumerate(node.inputs):
            assert value is not None  # a product has two factors
            yield node, index, value


def has_one_query(attention: Attention) -> bool:
    """True if a class token is the only query, as in the last block of many models.

    TensorRT-RTX 1.7.1 has a fused kernel for that in FP16, and none in FP8.
    """
    shape = attention.attended.outputs[0].shape
    return shape is not None and len(shape) == 4 and shape[2] == 1


def measured(attentions: Sequence[Attention]) -> list[str]:
    """Return the names of the factors whose range is measured on images: queries, keys and values."""
    return [
        str(value.name)
        for attention in attentions
        for _, _, value in factors_of(attention)
        if value is not attention.softmax.outputs[0]
    ]


def quantize_attention(
    model: ir.Model, attentions: Sequence[Attention], largest: Mapping[str, float], form: Form
) -> None:
    """Quantise and dequantise every factor of the products of attention, in place.

    Args:
        model: the graph of the attention, in float16.
        attentions: result of `attentions_of`.
        largest: by the name of each factor of `measured`, its largest absolute value.
        form: the type of the quantised numbers.
    """
    for attention in attentions:
        for node, index, value in list(factors_of(attention)):
            reach = largest.get(str(value.name), LARGEST_WEIGHT)
            scale = form.scales(np.asarray(reach, np.float32), ir.DataType.FLOAT16.numpy())
            wide = quantized_and_back(model, node, value, f"{node.name}_input_{index}", scale, form)
            node.replace_input_with(index, wide)
