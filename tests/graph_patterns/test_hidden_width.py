"""Widened hidden layers: other shapes, the same numbers, and only where rows lie a multiple of 4 KiB apart."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.testing import assert_allclose
from onnx import TensorProto, helper, numpy_helper

from tofu_export.graph_patterns.lowering import lower
from tofu_export.options import Precision, Target
from tofu_export.system.ort import open_session


def mlp(hidden: int, *, more_outputs: tuple[str, ...] = (), bias_shape: tuple[int, ...] | None = None) -> ir.Model:
    """`y = gelu(x w + b) v + x` on [batch, 3, 8]."""
    rng = np.random.default_rng(0)
    shapes = {"w": (8, hidden), "b": bias_shape or (hidden,), "v": (hidden, 8)}
    weights = [
        numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name) for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"], name="fc1"),
        helper.make_node("Add", ["product", "b"], ["sum"], name="bias"),
        helper.make_node("Gelu", ["sum"], ["bent"], name="act", domain="tofu", approximate="none"),
        helper.make_node("MatMul", ["bent", "v"], ["back"], name="fc2"),
        helper.make_node("Add", ["back", "x"], ["y"], name="residual"),
    ]
    io = ["batch", 3, 8]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, io)]
    wide = ["batch", 3, hidden]
    outputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, wide) for name in more_outputs]
    graph = helper.make_graph(
        nodes, "mlp", [helper.make_tensor_value_info("x", TensorProto.FLOAT, io)], outputs, weights
    )
    for name in {"product", "sum", "bent"} - set(more_outputs):
        graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, wide))
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("tofu", 1)]
    return ir.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=9))


def hidden_of(model: ir.Model) -> tuple[int, ...]:
    _, product = (node for node in model.graph if node.op_type == "MatMul")
    weight = product.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    return tuple(weight.const_value.numpy().shape)


def run(model: ir.Model, x: np.ndarray) -> np.ndarray:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return open_session(proto.SerializeToString()).run({"x": x})["y"]


@pytest.mark.parametrize(("hidden", "expected"), [(1024, 1040), (3072, 3088), (1000, 1000), (1536, 1536)])
def test_hidden_layers_of_whole_pages_are_widened(hidden: int, expected: int) -> None:
    wide = lower(mlp(hidden), Target.ONNXRUNTIME, Precision.FP32)
    plain = lower(mlp(hidden), Target.PORTABLE, Precision.FP32)
    assert hidden_of(wide)[0] == expected
    assert hidden_of(plain)[0] == hidden
    x = np.random.default_rng(1).normal(size=(2, 3, 8)).astype(np.float32)
    assert_allclose(run(wide, x), run(plain, x), rtol=0, atol=2e-4)


def test_what_else_reads_the_hidden_layer_keeps_it() -> None:
    model = lower(mlp(1024, more_outputs=("bent",)), Target.ONNXRUNTIME, Precision.FP32)
    assert hidden_of(model)[0] == 1024


def test_a_bias_of_another_shape_keeps_it() -> None:
    model = lower(mlp(1024, bias_shape=(3, 1024)), Target.ONNXRUNTIME, Precision.FP32)
    assert hidden_of(model)[0] == 1024
