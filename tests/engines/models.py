"""Tiny ONNX files for the engine tests, made without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

NUMPY = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16, TensorProto.BFLOAT16: ml_dtypes.bfloat16}
DTYPE = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def value(name: str, shape: Sequence[int | str | None], dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: Sequence[onnx.TensorProto] = (),
    opset: int = 18,
) -> onnx.ModelProto:
    graph = helper.make_graph(list(nodes), "tiny", list(inputs), list(outputs), list(constants))
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("tofu", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def save(proto: onnx.ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    path = folder / name
    onnx.save(proto, path)
    return path


def save_beside(proto: onnx.ModelProto, folder: Path) -> Path:
    """Save a model as `m.onnx`, whose weights lie beside it in `weights.bin`."""
    path = folder / "m.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def flip_last_bit(path: Path) -> None:
    """Change a file, but not its size."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def one_node(
    op_type: str,
    inputs: Sequence[onnx.ValueInfoProto],
    output: onnx.ValueInfoProto,
    constants: Sequence[onnx.TensorProto] = (),
    opset: int = 18,
    more_outputs: Sequence[str] = (),
    **attributes: Any,
) -> onnx.ModelProto:
    names = [*(entry.name for entry in inputs), *(tensor.name for tensor in constants)]
    node = helper.make_node(op_type, names, [output.name, *more_outputs], name=f"/blocks.0/{op_type}", **attributes)
    return model([node], inputs, [output], constants, opset)


def block(precision: str = "fp32", batch: int | str = "batch", tokens: int | str = 16) -> onnx.ModelProto:
    """LayerNormalization, MatMul, Softmax, MatMul, Add on [B, N, 32]."""
    dtype = DTYPE[precision]
    random = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array((random.standard_normal(shape) / 8).astype(NUMPY[dtype]), name)

    nodes = [
        helper.make_node("LayerNormalization", ["x", "g", "b"], ["n"], name="/blocks.0/norm/LayerNormalization"),
        helper.make_node("MatMul", ["n", "w1"], ["h"], name="/blocks.0/mlp/MatMul"),
        helper.make_node("Softmax", ["h"], ["s"], name="/blocks.1/Softmax", axis=-1),
        helper.make_node("MatMul", ["s", "w2"], ["o"], name="/blocks.1/mlp/MatMul"),
        helper.make_node("Add", ["o", "x"], ["y"], name="/blocks.1/Add"),
    ]
    constants = [weight("g", 32), weight("b", 32), weight("w1", 32, 64), weight("w2", 64, 32)]
    shape = [batch, tokens, 32]
    return model(nodes, [value("x", shape, dtype)], [value("y", shape, dtype)], constants)


def fp32_island() -> onnx.ModelProto:
    """An FP16 MatMul followed by one in FP32, as the similarity of a reduction is."""
    random = np.random.default_rng(0)
    w = numpy_helper.from_array(random.standard_normal((32, 32)).astype(np.float16), "w")
    v = numpy_helper.from_array(random.standard_normal((32, 32)).astype(np.float32), "v")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="/blocks.0/MatMul"),
        helper.make_node("Cast", ["h"], ["f"], name="/blocks.0/Cast", to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["f", "v"], ["y"], name="/blocks.0/similarity/MatMul"),
    ]
    shape: list[int | str | None] = ["batch", 16, 32]
    return model(nodes, [value("x", shape, TensorProto.FLOAT16)], [value("y", shape)], [w, v])


def scatter(reduction: str, op_type: str = "ScatterElements") -> onnx.ModelProto:
    if op_type == "ScatterND":
        inputs = [value("x", ["b", 8]), value("i", [2, 1], TensorProto.INT64), value("u", [2, 8])]
        return one_node(op_type, inputs, value("y", ["b", 8]), reduction=reduction)
    inputs = [value("x", ["b", 8]), value("i", ["b", 4], TensorProto.INT64), value("u", ["b", 4])]
    return one_node(op_type, inputs, value("y", ["b", 8]), axis=1, reduction=reduction)


def topk(k: int) -> onnx.ModelProto:
    constant = numpy_helper.from_array(np.array([k], dtype=np.int64), "k")
    return one_node("TopK", [value("x", ["b", 5000])], value("y", ["b", k]), [constant], more_outputs=["indices"])


def attention(precision: str, head_dim: int = 64, **attributes: Any) -> onnx.ModelProto:
    shape: list[int | str | None] = ["b", 3, 64, head_dim]
    dtype = DTYPE[precision]
    inputs = [value(name, shape, dtype) for name in "qkv"]
    return one_node("Attention", inputs, value("y", shape, dtype), opset=23, **attributes)


def resize(antialias: int) -> onnx.ModelProto:
    scales = numpy_helper.from_array(np.array([1, 1, 2, 2], dtype=np.float32), "scales")
    nodes = [
        helper.make_node(
            "Resize", ["x", "", "scales"], ["y"], name="/blocks.0/Resize", mode="cubic", antialias=antialias
        )
    ]
    return model(nodes, [value("x", ["b", 3, 8, 8])], [value("y", ["b", 3, 16, 16])], [scales])


def nonzero() -> onnx.ModelProto:
    return one_node("NonZero", [value("x", ["b", 8])], value("y", [2, None], TensorProto.INT64))


def lp_normalization(precision: str) -> onnx.ModelProto:
    dtype = DTYPE[precision]
    opset = 22 if precision == "bf16" else 18
    return one_node("LpNormalization", [value("x", ["b", 8], dtype)], value("y", ["b", 8], dtype), opset=opset)
