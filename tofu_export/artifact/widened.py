"""Give a half-precision model another type, above all a copy of a file that computes in FP32.

onnxruntime's CPU provider has no BF16 kernels at all, and lacks some of those for FP16.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

__all__ = ["BFLOAT16", "HALVES", "holds", "retype", "widened"]

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
    retype(model, types, TensorProto.FLOAT, numbers)
    copy = folder / path.name
    onnx.save_model(
        model,
        copy,
        save_as_external_data=True,
        location=f"{path.name}.data",
        size_threshold=_EXTERNAL_BYTES,
    )
    return copy


def retype(model: ModelProto, types: Collection[int], to: int, numbers: Sequence[float] = ()) -> None:
    """Put one floating-point type in place of others, in place: inputs, outputs, weights, casts.

    Args:
        model: the model, without external weights.
        types: ONNX types to replace.
        to: the ONNX type that they become; a value beyond its range becomes infinite.
        numbers: as for `widened`.
    """
    change = _Change(types, to, numbers)
    change.graph(model.graph)
    for function in model.functions:
        change.values(function.value_info)
        change.nodes(function.node)


@dataclass(frozen=True)
class _Change:
    """What `retype` does to the parts of a model."""

    types: Collection[int]
    to: int
    numbers: Sequence[float]

    def graph(self, graph: GraphProto) -> None:
        for tensor in graph.initializer:
            self.tensor(tensor)
        self.values((*graph.input, *graph.output, *graph.value_info))
        self.nodes(graph.node)

    def values(self, values: Iterable[ValueInfoProto]) -> None:
        for value in values:
            if value.type.tensor_type.elem_type in self.types:
                value.type.tensor_type.elem_type = self.to

    def nodes(self, nodes: Iterable[NodeProto]) -> None:
        for node in nodes:
            for attribute in node.attribute:
                if attribute.type == AttributeProto.TENSOR:
                    self.tensor(attribute.t)
                elif attribute.type == AttributeProto.GRAPH:
                    self.graph(attribute.g)
                elif attribute.name in _TYPES and attribute.i in self.types:
                    attribute.i = self.to

    def tensor(self, tensor: TensorProto) -> None:
        if tensor.data_type not in self.types:
            return
        narrow = np.asarray(onnx.numpy_helper.to_array(tensor))
        with np.errstate(over="ignore"):
            values = narrow.astype(onnx.helper.tensor_dtype_to_np_dtype(self.to))
        if values.size == 1:
            meant = next(
                (each for each in self.numbers if (np.asarray(each).astype(narrow.dtype) == narrow).all()), None
            )
            values = values if meant is None else np.full_like(values, meant)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
