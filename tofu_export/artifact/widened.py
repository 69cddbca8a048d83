"""Copy a half-precision file so that it computes in FP32.

onnxruntime's CPU provider has no BF16 kernels at all, and lacks some of those for FP16.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

__all__ = ["BFLOAT16", "HALVES", "holds", "widened"]

BFLOAT16 = frozenset({TensorProto.BFLOAT16})
HALVES = frozenset({TensorProto.BFLOAT16, TensorProto.FLOAT16})

_EXTERNAL_BYTES = 1024
"""Larger tensors go into a separate file: a whole model may exceed the limit of one file."""
_TYPES = frozenset({"to", "dtype", "output_dtype"})
"""Attributes that name a type."""


def holds(model: ModelProto, types: Collection[int]) -> bool:
    """True if inputs, outputs or weights of a model have one of these types, or it casts to one."""
    graph = model.graph
    return (
        any(value.type.tensor_type.elem_type in types for value in (*graph.input, *graph.output, *graph.value_info))
        or any(tensor.data_type in types for tensor in graph.initializer)
        or any(entry.name in _TYPES and entry.i in types for node in graph.node for entry in node.attribute)
    )


def widened(path: Path, folder: Path, types: Collection[int] = BFLOAT16, numbers: Sequence[float] = ()) -> Path:
    """Copy a file with float32 in place of `types`, and the same numbers.

    Weights keep their rounded values; what is computed from them is no longer rounded. Nothing else changes.

    Args:
        path: the file.
        folder: folder for the copy.
        types: ONNX types that become float32.
        numbers: exact values; a single constant that is the rounding of one is replaced by the first such value.

    Returns:
        The copy, under the same name.
    """
    model = onnx.load(path)
    _widen(model.graph, types, numbers)
    for function in model.functions:
        _widen_values(function.value_info, types)
        _widen_nodes(function.node, types, numbers)
    copy = folder / path.name
    onnx.save_model(
        model,
        copy,
        save_as_external_data=True,
        location=f"{path.name}.data",
        size_threshold=_EXTERNAL_BYTES,
    )
    return copy


def _widen(graph: GraphProto, types: Collection[int], numbers: Sequence[float]) -> None:
    for tensor in graph.initializer:
        _widen_tensor(tensor, types, numbers)
    _widen_values((*graph.input, *graph.output, *graph.value_info), types)
    _widen_nodes(graph.node, types, numbers)


def _widen_values(values: Iterable[ValueInfoProto], types: Collection[int]) -> None:
    for value in values:
        if value.type.tensor_type.elem_type in types:
            value.type.tensor_type.elem_type = TensorProto.FLOAT


def _widen_nodes(nodes: Iterable[NodeProto], types: Collection[int], numbers: Sequence[float]) -> None:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                _widen_tensor(attribute.t, types, numbers)
            elif attribute.type == AttributeProto.GRAPH:
                _widen(attribute.g, types, numbers)
            elif attribute.name in _TYPES and attribute.i in types:
                attribute.i = TensorProto.FLOAT


def _widen_tensor(tensor: TensorProto, types: Collection[int], numbers: Sequence[float]) -> None:
    if tensor.data_type in types:
        narrow = np.asarray(onnx.numpy_helper.to_array(tensor))
        values = narrow.astype(np.float32)
        if values.size == 1:
            meant = next((each for each in numbers if (np.asarray(each).astype(narrow.dtype) == narrow).all()), None)
            values = values if meant is None else np.full_like(values, meant)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
