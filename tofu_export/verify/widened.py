"""A copy of a BF16 file that onnxruntime's CPU provider, which has no BF16 kernels, can run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, TensorProto

__all__ = ["widened"]

_EXTERNAL_BYTES = 1024
"""Larger tensors go into a file of their own: a whole model may exceed what one can hold."""
_TYPES = frozenset({"to", "dtype", "output_dtype"})
"""Attributes that are a type."""


def widened(path: Path, folder: Path) -> Path:
    """Copy the file at `path` into `folder` with float32 wherever it has bfloat16, and the same numbers.

    Weights keep their rounded values; what is computed from them is no longer rounded. Nothing else changes.

    Returns:
        The copy, under the same name.
    """
    model = onnx.load(path)
    _widen(model.graph)
    copy = folder / path.name
    onnx.save_model(
        model,
        copy,
        save_as_external_data=True,
        location=f"{path.name}.data",
        size_threshold=_EXTERNAL_BYTES,
    )
    return copy


def _widen(graph: GraphProto) -> None:
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.BFLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                _widen_tensor(attribute.t)
            elif attribute.type == AttributeProto.GRAPH:
                _widen(attribute.g)
            elif attribute.name in _TYPES and attribute.i == TensorProto.BFLOAT16:
                attribute.i = TensorProto.FLOAT


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.BFLOAT16:
        values = np.asarray(onnx.numpy_helper.to_array(tensor)).astype(np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
