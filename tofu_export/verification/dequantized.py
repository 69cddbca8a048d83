"""Copy a quantised file without its quantisation: weights keep their steps, activations are no longer rounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

__all__ = ["dequantized"]

_EXTERNAL_BYTES = 1024


def dequantized(path: Path, folder: Path) -> Path:
    """Copy the quantised file at `path` into `folder`, without any QuantizeLinear and DequantizeLinear.

    A constant behind a DequantizeLinear becomes its dequantised value in FP32: other FP16 parts must be widened, too
    (`artifact.widened`). An activation that is quantised and dequantised passes unchanged: its scale and zero point are
    lost, see `graph_patterns.quantized.check` for these.

    Returns:
        The copy, under the same name.
    """
    model = onnx.load(path)
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    narrow = {node.output[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
    kept, renamed = [], dict[str, str]()
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            array = _values(node, constants)
            graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
        elif node.op_type == "DequantizeLinear" and node.input[0] in narrow:
            renamed[node.output[0]] = narrow[node.input[0]].input[0]
        elif node.op_type != "QuantizeLinear":
            kept.append(node)
    for node in kept:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    del graph.node[:]
    graph.node.extend(kept)
    read = {name for node in kept for name in node.input} | {value.name for value in graph.output}
    left = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(left)
    copy = folder / path.name
    onnx.save_model(
        model, copy, save_as_external_data=True, location=f"{path.name}.data", size_threshold=_EXTERNAL_BYTES
    )
    return copy


def _values(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> NDArray[np.float32]:
    """Return the dequantised value of a DequantizeLinear of constants."""
    steps, scales, *zeros = (numpy_helper.to_array(constants[name]) for name in node.input)
    axis = next((entry.i for entry in node.attribute if entry.name == "axis"), 1)

    def along(values: NDArray[Any]) -> NDArray[Any]:
        return (
            values.reshape([-1 if i == axis % steps.ndim else 1 for i in range(steps.ndim)]) if values.ndim else values
        )

    offset = along(zeros[0].astype(np.float32)) if zeros else np.float32(0)
    found: NDArray[np.float32] = (steps.astype(np.float32) - offset) * along(scales).astype(np.float32)
    return found
