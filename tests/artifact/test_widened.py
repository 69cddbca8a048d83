"""Copies of BF16 files: the same numbers, and nothing in bfloat16 is left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tofu_export.artifact.widened import widened
from tofu_export.errors import ExportError
from tofu_export.system.ort import open_session

BF16, FP32 = TensorProto.BFLOAT16, TensorProto.FLOAT


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """x -> ((x in BF16) @ weight + constant) in FP32, in an If with one more constant in each branch."""
    weight = helper.make_tensor("weight", BF16, [40, 16], np.linspace(-3, 3, 640).tolist())

    def branch(value: float) -> onnx.GraphProto:
        nodes = [
            helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", BF16, [1], [value])),
            helper.make_node("Add", ["product", "c"], ["sum"]),
        ]
        return helper.make_graph(nodes, "branch", [], [helper.make_tensor_value_info("sum", BF16, None)])

    nodes = [
        helper.make_node("Cast", ["x"], ["narrow"], to=BF16),
        helper.make_node("MatMul", ["narrow", "weight"], ["product"]),
        helper.make_node("If", ["yes"], ["sum"], then_branch=branch(0.1), else_branch=branch(7)),
        helper.make_node("Cast", ["sum"], ["y"], to=FP32),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", FP32, ["b", 40])],
        [helper.make_tensor_value_info("y", FP32, ["b", 16])],
        [weight, numpy_helper.from_array(np.array(True), "yes")],
        value_info=[helper.make_tensor_value_info("narrow", BF16, ["b", 40])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "a.onnx")
    return tmp_path / "a.onnx"


def test_it_runs_with_the_same_numbers(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError):
        open_session(file)
    (tmp_path / "copy").mkdir()
    copy = widened(file, tmp_path / "copy")
    assert copy == tmp_path / "copy" / "a.onnx"
    assert "elem_type: 16" not in str(onnx.load(copy).graph)
    rounded = np.asarray(numpy_helper.to_array(onnx.load(file).graph.initializer[0])).astype(np.float32)
    tenth = np.float32(0.10009765625)  # 0.1 in BF16
    x = np.random.default_rng(0).standard_normal((3, 40), dtype=np.float32)
    np.testing.assert_allclose(open_session(copy).run({"x": x})["y"], x @ rounded + tenth, rtol=1e-5, atol=1e-5)


def test_files_without_bf16_stay_as_they_are(tmp_path: Path) -> None:
    node = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT16)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", FP32, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [1])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "a.onnx")
    (tmp_path / "copy").mkdir()
    assert onnx.load(widened(tmp_path / "a.onnx", tmp_path / "copy")) == model
