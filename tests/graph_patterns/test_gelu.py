"""GELU in both forms and both approximations, and that onnxruntime fuses the form of old opsets."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper

from tofu_export.graph_patterns.lowering import census, lower
from tofu_export.options import Precision, Target
from tofu_export.system.ort import open_session


def canonical(approximate: str, opset: int, kind: int = TensorProto.FLOAT) -> ir.Model:
    """x + b, then `tofu::Gelu`."""
    nodes = [
        helper.make_node("Add", ["x", "b"], ["biased"], "bias"),
        helper.make_node("Gelu", ["biased"], ["y"], "act", domain="tofu", approximate=approximate),
    ]
    bias = helper.make_tensor("b", kind, [8], np.linspace(-1, 1, 8))
    graph = helper.make_graph(
        nodes,
        "gelu",
        [helper.make_tensor_value_info("x", kind, ["batch", 8])],
        [helper.make_tensor_value_info("y", kind, ["batch", 8])],
        [bias],
        value_info=[helper.make_tensor_value_info("biased", kind, ["batch", 8])],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("tofu", 1)]
    return ir.serde.deserialize_model(helper.make_model(graph, opset_imports=imports, ir_version=10))


def expected(x: np.ndarray, approximate: str) -> np.ndarray:
    if approximate == "tanh":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


@pytest.mark.parametrize("opset", [18, 20, 23])
@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize(("precision", "tolerance"), [(Precision.FP32, 1e-6), (Precision.FP16, 4e-3)])
def test_equals_the_definition(approximate: str, opset: int, precision: Precision, tolerance: float) -> None:
    kind = TensorProto.FLOAT if precision is Precision.FP32 else TensorProto.FLOAT16
    model = lower(canonical(approximate, opset, kind), Target.PORTABLE, precision)
    assert ("Gelu" in census(model)) == (opset >= 20)
    session = open_session(ir.serde.serialize_model(model).SerializeToString())
    x = np.random.default_rng(0).normal(scale=3, size=(5, 8)).astype(session.inputs["x"].dtype)
    biased = x.astype(np.float64) + np.linspace(-1, 1, 8)
    np.testing.assert_allclose(
        session.run({"x": x})["y"], expected(biased, approximate), atol=tolerance, rtol=tolerance
    )


def test_onnxruntime_fuses_the_steps(tmp_path: Path) -> None:
    model = lower(canonical("none", 18), Target.PORTABLE, Precision.FP32)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(
        ir.serde.serialize_model(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds == ["BiasGelu"]
