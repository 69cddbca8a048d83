"""Widen an MLP's hidden layer by one cache line if the distance of its rows is a multiple of 4 KiB.

Such rows share the sets of an L1 cache. The second product of the MLP reads several of them at a time, and they evict
each other: with 3072 hidden channels onnxruntime's float32 product runs 10 % below its rate for other widths, with
4096 15 % (AVX-512). The added channels have zero weights on both sides, so results do not change.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from tofu_export.graph_patterns.canonical import DOMAIN

__all__ = ["widen_hidden_layers"]

_PAGE_BYTES = 4096
_FLOAT_BYTES = 4
_ADDED = 16
"""Added channels: 64 bytes of float32."""


def widen_hidden_layers(model: ir.Model) -> int:
    """Widen the MLPs of a canonical float32 graph, in place, and return how many were widened.

    Only the plain form is changed: a product, a bias, GELU and a product, with nothing else in between.
    """
    found = [mlp for node in model.graph if (mlp := _mlp(node)) is not None]
    for before, bias, gelu, behind in found:
        _pad(model, before, ((0, 0), (0, _ADDED)))
        _pad(model, bias, ((0, _ADDED),))
        _pad(model, behind, ((0, _ADDED), (0, 0)))
        for out in (before.outputs[0], bias.outputs[0], gelu.outputs[0]):
            if out.shape is not None and isinstance(out.shape[-1], int):
                out.shape = ir.Shape([*out.shape[:-1], out.shape[-1] + _ADDED])
    return len(found)


def _mlp(gelu: ir.Node) -> tuple[ir.Node, ir.Node, ir.Node, ir.Node] | None:
    """Return product, bias, GELU and product of an MLP whose hidden rows are a multiple of 4 KiB apart."""
    if gelu.domain != DOMAIN or gelu.op_type != "Gelu":
        return None
    bias = _producer(gelu, "Add")
    before = _producer(bias, "MatMul") if bias is not None else None
    if bias is None or before is None or not _feeds_one(gelu.outputs[0]):
        return None
    ((behind, place),) = gelu.outputs[0].uses()
    if behind.op_type != "MatMul" or place != 0:
        return None
    shapes = [_constant_shape(node) for node in (before, bias, behind)]
    if shapes[0] is None or shapes[1] is None or shapes[2] is None:
        return None
    hidden = shapes[2][0]
    fits = len(shapes[0]) == len(shapes[2]) == 2 and shapes[0][1] == hidden and shapes[1] == (hidden,)
    return (before, bias, gelu, behind) if fits and hidden * _FLOAT_BYTES % _PAGE_BYTES == 0 else None


def _producer(node: ir.Node, kind: str) -> ir.Node | None:
    """Return the node of the first input, if it is of that kind and feeds nothing else."""
    value = node.inputs[0]
    producer = value.producer() if value is not None and _feeds_one(value) else None
    return producer if producer is not None and producer.op_type == kind else None


def _feeds_one(value: ir.Value) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output()


def _constant_shape(node: ir.Node) -> tuple[int, ...] | None:
    value = node.inputs[1]
    if value is None or value.const_value is None or value.const_value.dtype != ir.DataType.FLOAT:
        return None
    return tuple(value.const_value.numpy().shape)


def _pad(model: ir.Model, node: ir.Node, widths: tuple[tuple[int, int], ...]) -> None:
    """Give a node a zero-padded copy of its constant: other nodes may share the original."""
    value = node.inputs[1]
    assert value is not None and value.const_value is not None  # _constant_shape
    name = f"{node.name}/widened"
    tensor = ir.tensor(np.pad(value.const_value.numpy(), widths), name=name)
    wider = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)  # type: ignore[arg-type]
    model.graph.initializers[name] = wider
    node.replace_input_with(1, wider)
