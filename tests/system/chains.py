"""Graphs of quantised products."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def int8_chain(*, shared: bool) -> onnx.ModelProto:
    """Two products of 64 channels, one after the other; all their weights are 127, as are their inputs for x = 1."""
    steps = np.full((64, 64), 127, np.int8)
    initializers = [
        numpy_helper.from_array(np.array(1 / 127, np.float32), "step"),
        numpy_helper.from_array(np.array(0, np.int8), "zero"),
        numpy_helper.from_array(steps, "weight0"),
        numpy_helper.from_array(steps.copy(), "weight1"),
        numpy_helper.from_array(np.full(64, 1 / 127 / 64, np.float32), "scale"),
        numpy_helper.from_array(np.zeros(64, np.int8), "zeros0"),
        numpy_helper.from_array(np.zeros(64, np.int8), "zeros1"),
    ]
    nodes = []
    for index in range(2):
        name = f"zeros{0 if shared else index}"
        nodes += [
            helper.make_node("QuantizeLinear", [f"x{index}", "step", "zero"], [f"q{index}"]),
            helper.make_node("DequantizeLinear", [f"q{index}", "step", "zero"], [f"d{index}"]),
            helper.make_node("DequantizeLinear", [f"weight{index}", "scale", name], [f"w{index}"], axis=1),
            helper.make_node("MatMul", [f"d{index}", f"w{index}"], [f"x{index + 1}"]),
        ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [8, 64]) for name in ("x0", "x2")]
    graph = helper.make_graph(nodes, "int8", ends[:1], ends[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
