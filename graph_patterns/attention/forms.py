"""Write the attention of a lowered graph in another form, for engines whose fused kernels are wrong or too short.

TensorRT fuses attention in half precision into one kernel. That kernel was wrong on GPUs (NVIDIA/TensorRT#4837, on
SM120), and may add up in FP16, which overflows over many tokens. Types are those of the file, so the file decides which
kernels are built.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from tofu_export.graph_patterns.attention.find import Attention, attentions_of
from tofu_export.graph_patterns.insert import initializer, insert
from tofu_export.options import AttentionForm

__all__ = ["write_attention"]

_LAST_AXIS = "attention/last_axis"
_HALVES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


def write_attention(model: ir.Model, form: AttentionForm) -> int:
    """Write all half-precision attention in another form, in place; return how many were changed.

    Requires: a lowered graph, whose attention is in the form `AttentionForm.FUSED`. Names of its nodes stay, and so do
    the types of its inputs and outputs.
    """
    if form is AttentionForm.FUSED:
        return 0
    found = [(each, dtype) for each in attentions_of(model) if (dtype := _type_of(each)) in _HALVES]
    for attention, dtype in found:
        if form is AttentionForm.FP32_ACCUMULATE:
            _widen_products(model, attention, dtype)
        else:
            _set_softmax_apart(model, attention, dtype)
    return len(found)


def _widen_products(model: ir.Model, attention: Attention, dtype: ir.DataType) -> None:
    """Compute queries, keys, values, a bias, and everything up to the result in FP32.

    Source: TensorRT's guide on transformers (11.3): attention accumulates in FP32 where its inputs are cast to FP32.
    """
    for node in (attention.scores, attention.attended):
        for index, value in enumerate(node.inputs):
            if value is not attention.softmax.outputs[0]:
                _cast_input(model, node, index, ir.DataType.FLOAT)
    biased = attention.softmax.inputs[0].producer()  # type: ignore[union-attr]  # scores come from a node
    if biased is not None and biased is not attention.scores:
        for index, value in enumerate(biased.inputs):
            if value is not attention.scores.outputs[0]:
                _cast_input(model, biased, index, ir.DataType.FLOAT)
    for node in filter(None, (attention.scores, biased, attention.softmax)):
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    _cast_output(model, attention.attended, dtype)


def _set_softmax_apart(model: ir.Model, attention: Attention, dtype: ir.DataType) -> None:
    """Compute the softmax in FP32, of scores minus their maximum: both products remain separate kernels.

    TensorRT-RTX 1.7.1 fuses attention whose softmax merely is between two casts.
    """
    softmax = attention.softmax
    _cast_input(model, softmax, 0, ir.DataType.FLOAT)
    scores = softmax.inputs[0]
    assert scores is not None  # just put there
    axis = model.graph.initializers.get(_LAST_AXIS) or initializer(model, _LAST_AXIS, np.array([-1], np.int64))
    largest = insert(model, softmax, "ReduceMax", f"{softmax.name}/scores", (scores, axis), "max", ir.DataType.FLOAT)
    largest.shape = None
    less = insert(model, softmax, "Sub", f"{softmax.name}/scores", (scores, largest), "less", ir.DataType.FLOAT)
    softmax.replace_input_with(0, less)
    _cast_output(model, softmax, dtype)


def _type_of(attention: Attention) -> ir.DataType | None:
    """Return the type of an attention, by its values."""
    value = attention.attended.inputs[1]
    return None if value is None else value.dtype


def _cast_input(model: ir.Model, node: ir.Node, index: int, dtype: ir.DataType) -> None:
    stage = f"{node.name}/input_{index}"
    wide = insert(model, node, "Cast", stage, (node.inputs[index],), dtype.name.lower(), dtype, to=int(dtype))
    node.replace_input_with(index, wide)


def _cast_output(model: ir.Model, node: ir.Node, dtype: ir.DataType) -> None:
    """Compute a node in FP32, and cast its output to `dtype` under the original name."""
    old = node.outputs[0]
    readers = list(old.uses())
    cast = ir.node("Cast", [old], {"to": int(dtype)}, name=f"{node.name}/{dtype.name.lower()}")
    new = cast.outputs[0]
    new.type, new.shape = ir.TensorType(dtype), old.shape
    new.name, old.name = old.name, f"{old.name}/float"
    old.type = ir.TensorType(ir.DataType.FLOAT)  # `dtype` would change the type of every value that shares it
    model.graph.insert_after(node, cast)
    for reader, index in readers:
        reader.replace_input_with(index, new)
