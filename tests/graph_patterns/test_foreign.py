"""Graphs of others: rewritten where the operator is known, the same numbers, and left alone where it is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.testing import assert_allclose
from onnx import TensorProto, helper, numpy_helper

from tofu_export.errors import LoweringError
from tofu_export.graph_patterns.foreign import Change, rewrite
from tofu_export.graph_patterns.lowering import census
from tofu_export.options import Target
from tofu_export.ort import open_session

TENSORRTS = [Target.PORTABLE, Target.TENSORRT, Target.TENSORRT_RTX]
B, T, R, C = 2, 7, 5, 4


def scatter(
    reduction: str | None,
    channels: int = C,
    *,
    opset: int = 18,
    expanded: bool = True,
    axis: int = 1,
    dtype: int = TensorProto.FLOAT,
    rows: int | str = T,
    index_dtype: int = TensorProto.INT64,
) -> onnx.ModelProto:
    """Tokens that join others, as `scatter_reduce` is exported."""
    index_shape = ["batch", R, 1 if expanded else channels]
    attributes: dict[str, Any] = {} if reduction is None else {"reduction": reduction}
    shape = numpy_helper.from_array(np.array([1, 1, channels], dtype=np.int64), "shape")
    nodes = [
        helper.make_node("Expand", ["index", "shape"], ["wide"], name="expand"),
        helper.make_node("ScatterElements", ["x", "wide" if expanded else "index", "updates"], ["y"], name="merge",
                         axis=axis, **attributes),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes if expanded else nodes[1:],
        "merge",
        [
            helper.make_tensor_value_info("x", dtype, ["batch", rows, channels]),
            helper.make_tensor_value_info("index", index_dtype, index_shape),
            helper.make_tensor_value_info("updates", dtype, ["batch", R, channels]),
        ],
        [helper.make_tensor_value_info("y", dtype, ["batch", rows, channels])],
        [shape] if expanded else [],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def feeds(channels: int = C, *, expanded: bool = True, index_dtype: type = np.int64) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    index = random.integers(0, 3, size=(B, R, 1 if expanded else channels))  # several join some rows, none others
    return {
        "x": random.standard_normal((B, T, channels), dtype=np.float32),
        "index": index.astype(index_dtype),
        "updates": random.standard_normal((B, R, channels), dtype=np.float32),
    }


def rewritten(proto: onnx.ModelProto, target: Target = Target.PORTABLE) -> tuple[onnx.ModelProto, tuple[Change, ...]]:
    model = ir.from_proto(proto)
    changes = rewrite(model, target)
    result = ir.to_proto(model)
    onnx.checker.check_model(result, full_check=True)
    return result, changes


def run(proto: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> np.ndarray:
    session = open_session(proto.SerializeToString())
    return session.run({name: inputs[name] for name in session.inputs})["y"]


def expected(reduction: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """In plain loops, not by another scatter."""
    result = inputs["x"].astype(np.float64)
    for image in range(B):
        for source in range(R):
            for channel in range(result.shape[2]):
                row = inputs["index"][image, source, min(channel, inputs["index"].shape[2] - 1)]
                update = inputs["updates"][image, source, channel]
                old = result[image, row, channel]
                result[image, row, channel] = old + update if reduction == "add" else max(old, update)
    return result


@pytest.mark.parametrize("target", TENSORRTS)
@pytest.mark.parametrize("opset", [16, 18, 20])
@pytest.mark.parametrize(("reduction", "channels"), [("add", C), ("add", 1), ("max", 1)])
def test_a_scatter_that_reduces_whole_rows(reduction: str, channels: int, opset: int, target: Target) -> None:
    proto = scatter(reduction, channels, opset=opset)
    result, changes = rewritten(proto, target)
    assert changes == (Change("merge", "ScatterElements"),)
    assert not any(node.op_type == "ScatterElements" for node in result.graph.node)
    inputs = feeds(channels)
    assert_allclose(run(result, inputs), expected(reduction, inputs), atol=1e-5)
    assert_allclose(run(proto, inputs), expected(reduction, inputs), atol=1e-5)  # the oracle is right about scatter


def test_a_column_of_int32_indices_needs_no_expand() -> None:
    proto = scatter("add", 1, expanded=False, index_dtype=TensorProto.INT32)
    result, changes = rewritten(proto)
    assert not changes[0].left
    inputs = feeds(1, expanded=False, index_dtype=np.int32)
    assert_allclose(run(result, inputs), expected("add", inputs), atol=1e-5)


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (scatter("add", expanded=False), "differ by channel"),
        (scatter("mul"), "reduction 'mul'"),
        (scatter("min"), "reduction 'min'"),
        (scatter("max"), "maximum over 4 channels"),
        (scatter("add", axis=2), "along axis 2"),
        (scatter("add", axis=0), "along axis 0"),
        (scatter("add", rows="rows"), "is not fixed"),
    ],
)
def test_what_has_no_equal_is_left_and_said(proto: onnx.ModelProto, reason: str) -> None:
    before = proto.SerializeToString()
    result, (change,) = rewritten(proto)
    assert reason in change.left
    assert [node.op_type for node in result.graph.node] == [node.op_type for node in proto.graph.node]
    assert proto.SerializeToString() == before


@pytest.mark.parametrize("reduction", [None, "none"])
def test_a_scatter_that_overwrites_is_none_of_ours(reduction: str | None) -> None:
    assert rewritten(scatter(reduction))[1] == ()


def test_onnxruntime_keeps_its_scatter_in_float32_and_not_in_half() -> None:
    assert rewritten(scatter("add"), Target.ONNXRUNTIME)[1] == ()
    half, changes = rewritten(scatter("add", dtype=TensorProto.FLOAT16), Target.ONNXRUNTIME)
    assert not changes[0].left
    inputs = {name: value.astype(np.float16) if name != "index" else value for name, value in feeds().items()}
    assert_allclose(run(half, inputs), expected("add", inputs), atol=5e-3)


def test_scatter_nd_with_a_reduction_is_left() -> None:
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 3]),
        helper.make_tensor_value_info("i", TensorProto.INT64, [2, 1]),
        helper.make_tensor_value_info("u", TensorProto.FLOAT, [2, 3]),
    ]
    node = helper.make_node("ScatterND", ["x", "i", "u"], ["y"], name="put", reduction="add")
    graph = helper.make_graph([node], "put", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 3])])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    assert "ScatterND" in rewritten(proto, Target.TENSORRT)[1][0].left
    assert rewritten(proto, Target.ONNXRUNTIME)[1] == ()


# --- Attention -----------------------------------------------------------------------------------------------------


def attention(
    mask: tuple[int, list[Any]] | None = None, dtype: int = TensorProto.FLOAT, **attributes: Any
) -> onnx.ModelProto:
    names = ["q", "k", "v"] + ["m"] * (mask is not None)
    inputs = [helper.make_tensor_value_info(name, dtype, ["batch", 3, 6, 8]) for name in "qkv"]
    if mask is not None:
        inputs.append(helper.make_tensor_value_info("m", *mask))
    node = helper.make_node("Attention", names, ["y"], name="attend", **attributes)
    outputs = [helper.make_tensor_value_info("y", dtype, ["batch", 3, 6, 8])]
    graph = helper.make_graph([node], "attend", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)


def attended(inputs: dict[str, np.ndarray], scale: float) -> np.ndarray:
    scores = np.einsum("bhnd,bhmd->bhnm", inputs["q"], inputs["k"]).astype(np.float64) * scale
    if "m" in inputs:
        mask = inputs["m"]
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.einsum("bhnm,bhmd->bhnd", weights / weights.sum(axis=-1, keepdims=True), inputs["v"])


@pytest.mark.parametrize("target", [Target.PORTABLE, Target.TENSORRT_RTX, Target.ONNXRUNTIME])
@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("mask", [None, "float", "bool"])
def test_attention(mask: str | None, scale: float | None, target: Target) -> None:
    random = np.random.default_rng(0)
    inputs = {name: random.standard_normal((B, 3, 6, 8), dtype=np.float32) for name in "qkv"}
    kind = None
    if mask is not None:
        kind = (TensorProto.FLOAT if mask == "float" else TensorProto.BOOL, ["batch", 1, 1, 6])
        inputs["m"] = random.standard_normal((B, 1, 1, 6), dtype=np.float32)
        if mask == "bool":
            inputs["m"] = inputs["m"] > -1
            inputs["m"][..., 0] = True
    result, changes = rewritten(attention(kind, **({} if scale is None else {"scale": scale})), target)
    assert changes == (Change("attend", "Attention"),)
    assert "Attention" not in census(ir.from_proto(result))
    assert_allclose(run(result, inputs), attended(inputs, scale or 8**-0.5), atol=1e-5)


def test_half_precision_attention_is_built_as_it_is() -> None:
    assert rewritten(attention(dtype=TensorProto.FLOAT16), Target.TENSORRT_RTX)[1] == ()


@pytest.mark.parametrize("attributes", [{"is_causal": 1}, {"softcap": 2.0}])
def test_attention_of_another_kind_is_left(attributes: dict[str, Any]) -> None:
    (change,) = rewritten(attention(**attributes))[1]
    assert next(iter(attributes)) in change.left


def test_canonical_graphs_are_refused() -> None:
    proto = scatter("add")
    proto.graph.node[0].domain = "tofu"
    proto.opset_import.append(helper.make_opsetid("tofu", 1))
    with pytest.raises(LoweringError, match="export it again"):
        rewrite(ir.from_proto(proto), Target.PORTABLE)
