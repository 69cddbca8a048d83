"""Graphs with the scatters that other tools export."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

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
    onto: int | None = None,
) -> onnx.ModelProto:
    """Tokens that join others, as `scatter_reduce` is exported; `onto`: these have more channels."""
    wide = onto or channels
    index_shape: list[int | str | None] = ["batch", R, 1 if expanded else channels]
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
            helper.make_tensor_value_info("x", dtype, ["batch", rows, wide]),
            helper.make_tensor_value_info("index", index_dtype, index_shape),
            helper.make_tensor_value_info("updates", dtype, ["batch", R, channels]),
        ],
        [helper.make_tensor_value_info("y", dtype, ["batch", rows, wide])],
        [shape] if expanded else [],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def scatter_nd(reduction: str, shape: list[Any], places: list[Any], depth: int) -> onnx.ModelProto:
    """Rows that join others at `places`, which have `depth` numbers each."""
    rest = shape[depth:]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, shape),
        helper.make_tensor_value_info("i", TensorProto.INT64, [*places, depth]),
        helper.make_tensor_value_info("u", TensorProto.FLOAT, [*places, *rest]),
    ]
    node = helper.make_node("ScatterND", ["x", "i", "u"], ["y"], name="put", reduction=reduction)
    graph = helper.make_graph([node], "put", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def written(updates: list[Any]) -> onnx.ModelProto:
    """As many numbers as the mask has, given as an input: nobody knows which place gets which."""
    nodes = [
        helper.make_node("NonZero", ["m"], ["places"]),
        helper.make_node("Transpose", ["places"], ["index"], perm=[1, 0]),
        helper.make_node("ScatterND", ["x", "index", "u"], ["y"], name="write"),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", C]),
        helper.make_tensor_value_info("m", TensorProto.BOOL, ["b", C]),
        helper.make_tensor_value_info("u", TensorProto.FLOAT, updates),
    ]
    graph = helper.make_graph(nodes, "mask", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", C])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
