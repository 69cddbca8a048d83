"""What onnx's own checker and onnxruntime say of a file, and of which runtimes it is true."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from tofu_export.linting.authorities import checker_findings
from tofu_export.linting.finding import Runtime


def convolution(opset: int, size: int = 7, kind: int = TensorProto.BFLOAT16) -> onnx.ModelProto:
    """A Conv of `kind`, 2x2 over 8x8 pixels, whose output is said to have `size` rows and columns."""
    weight = helper.make_tensor("weight", kind, [4, 3, 2, 2], [0.5] * 48)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "weight"], ["y"])], "g",
        [helper.make_tensor_value_info("x", kind, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", kind, [1, 4, size, size])], [weight],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def rejecting(model: onnx.ModelProto) -> set[Runtime]:
    return {runtime for finding in checker_findings(model) for runtime in finding.runtimes}


def test_bf16_that_is_younger_than_the_opset_stops_onnxruntime_only() -> None:
    """onnx's Conv takes BF16 from opset 22 on; TensorRT's parser asks for no opset."""
    (finding,) = checker_findings(convolution(18))
    assert finding.runtimes == (Runtime.ONNXRUNTIME,)
    assert "Conv" in finding.message and "bfloat16" in finding.message
    assert rejecting(convolution(22)) == set()
    assert rejecting(convolution(18, kind=TensorProto.FLOAT16)) == set()


@pytest.mark.parametrize("opset", [18, 22])
def test_another_fault_is_found_behind_the_type(opset: int) -> None:
    assert rejecting(convolution(opset, size=9)) == set(Runtime)


def test_the_model_itself_stays(tmp_path: Path) -> None:
    model = convolution(18)
    before = model.SerializeToString()
    list(checker_findings(model))
    assert model.SerializeToString() == before
