"""Arithmetic counted on the networks that TensorRT-RTX's parser makes, which needs no GPU."""

from __future__ import annotations

import importlib.util
from typing import ClassVar

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.engines import models
from tests.linting.cases import constant
from tofu_export.engines.building._build_log import BuildLog, make_logger
from tofu_export.engines.building._network import (
    allow_decomposition,
    check_precision,
    dominant_precision,
    layer_table,
    mac_table,
    node_costs,
)
from tofu_export.engines.flavours import RTX, load
from tofu_export.errors import PrecisionMismatchError
from tofu_export.options import Precision

pytestmark = [
    pytest.mark.rtx,
    pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed"),
]

BATCHED = ["b", 3, 8, 8]


def product(op_type: str, shapes: list[list[object]], weights: list[onnx.TensorProto] = (), **attributes: object):
    inputs = [models.value(f"x{index}", shape) for index, shape in enumerate(shapes)]
    return models.one_node(op_type, inputs, models.value("y", None), weights, **attributes)


def weight(*shape: int) -> onnx.TensorProto:
    return constant("w", np.ones(shape), np.float32)


def grouped_transposed() -> onnx.ModelProto:
    return product("ConvTranspose", [["b", 4, 5, 5]], [weight(4, 3, 2, 2)], group=2, strides=[2, 2])


CASES = {
    "MatMul": (product("MatMul", [["b", 7, 16]], [weight(16, 32)]), 7 * 16 * 32, 16 * 32 * 4),
    "MatMul of two": (product("MatMul", [["b", 3, 7, 16], ["b", 3, 16, 9]]), 3 * 7 * 16 * 9, 0),
    "Gemm": (product("Gemm", [["b", 16]], [weight(32, 16)], transB=1), 16 * 32, 16 * 32 * 4),
    "Gemm across": (product("Gemm", [[16, 5]], [weight(16, 32)], transA=1), 5 * 16 * 32, 16 * 32 * 4),
    "Conv": (product("Conv", [BATCHED], [weight(16, 3, 4, 4)], strides=[4, 4]), 2 * 2 * 16 * 3 * 16, 16 * 3 * 16 * 4),
    "Conv in groups": (product("Conv", [["b", 4, 8, 8]], [weight(6, 2, 1, 1)], group=2), 64 * 6 * 2, 6 * 2 * 4),
    "ConvTranspose": (grouped_transposed(), 25 * 6 * 2 * 4, 6 * 2 * 4 * 4),
    "Einsum": (product("Einsum", [["b", 7, 16], ["b", 9, 16]], equation="bnc,bmc->bnm"), 7 * 16 * 9, 0),
    "Attention": (models.attention("fp16", head_dim=32), 3 * 64 * 64 * (32 + 32), 0),
    "Relu": (product("Relu", [["b", 8]]), 0, 0),
}


@pytest.fixture(scope="module")
def network_of():
    trt = load(RTX)
    logger = make_logger(trt, BuildLog())
    builder = trt.Builder(logger)
    kept = []

    def parse(proto: onnx.ModelProto):
        network = builder.create_network(0)
        parser = trt.OnnxParser(network, logger)
        assert parser.parse(proto.SerializeToString())
        kept.append(parser)
        return trt, network

    return parse


@pytest.mark.parametrize("name", CASES)
def test_macs_and_weights(name, network_of):
    proto, macs, weight_bytes = CASES[name]
    trt, network = network_of(proto)
    allow_decomposition(trt, network)
    costs = node_costs(trt, network)
    assert sum(cost.macs for cost in costs) == macs
    assert sum(cost.weight_bytes for cost in costs) == weight_bytes
    named = {cost.node for cost in costs if cost.macs}
    assert named == ({f"/blocks.0/{proto.graph.node[0].op_type}"} if macs else set())


NUMBERS = {
    Precision.INT8: (onnx.TensorProto.INT8, np.float32),
    Precision.INT8_FP16: (onnx.TensorProto.INT8, np.float16),
    Precision.FP8: (onnx.TensorProto.FLOAT8E4M3FN, np.float16),
}


@pytest.mark.parametrize("precision", NUMBERS)
@pytest.mark.parametrize("left", ["d", "x"])
def test_a_product_is_quantised_if_both_of_its_factors_were(left, precision, network_of):
    numbers, rest = NUMBERS[precision]
    quantised = helper.tensor_dtype_to_np_dtype(numbers)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w8", "s", "z"], ["w"]),
        helper.make_node("MatMul", [left, "w"], ["y"], name="/blocks.0/MatMul"),
        helper.make_node("Relu", ["d"], ["r"], name="/blocks.0/Relu"),
    ]
    constants = [
        constant("s", 0.1, rest),
        constant("z", 0, quantised),
        constant("w8", np.ones((16, 32)), quantised),
    ]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(rest))
    proto = models.model(
        nodes,
        [models.value("x", ["b", 7, 16], kind)],
        [models.value("y", ["b", 7, 32], kind), models.value("r", ["b", 7, 16], kind)],
        constants,
        opset=19,
    )
    dtype = precision.traced.value if left == "x" else "fp8" if precision is Precision.FP8 else "int8"
    trt, network = network_of(proto)
    costs = node_costs(trt, network)
    (heavy,) = (cost for cost in costs if cost.macs)
    assert (heavy.macs, heavy.weight_bytes, heavy.dtype) == (7 * 16 * 32, 16 * 32, dtype)
    layers, macs = layer_table(network), mac_table(costs)
    assert dominant_precision(layers, macs) is precision
    if left == "d":
        check_precision(layers, precision, macs, 0.9)
    else:
        with pytest.raises(PrecisionMismatchError, match="no product has both of its factors quantised"):
            check_precision(layers, precision, macs, 0.9)
    for other in set(Precision) - {precision}:
        with pytest.raises(PrecisionMismatchError, match=f"{other.value} was asked.*--precision {precision.value}$"):
            check_precision(layers, other, macs, 0.9)


class TestShare:
    LAYERS: ClassVar = {"MATRIX_MULTIPLY": {"fp16": 9, "fp32": 1}}

    def test_enough(self):
        check_precision(self.LAYERS, Precision.FP16, {"fp16": 90, "fp32": 10}, 0.9)

    def test_too_little(self):
        with pytest.raises(PrecisionMismatchError, match=r"only 89.0%.*89.0% fp16, 11.0% fp32.*at least 90%"):
            check_precision(self.LAYERS, Precision.FP16, {"fp16": 89, "fp32": 11}, 0.9)

    def test_fp32_has_no_share(self):
        check_precision({"MATRIX_MULTIPLY": {"fp32": 1}}, Precision.FP32, {"fp32": 1}, 0.9)


@pytest.mark.parametrize(
    ("macs", "expected"),
    [({}, Precision.FP32), ({"fp16": 2, "fp32": 1}, Precision.FP16), ({"bf16": 1, "fp32": 2}, Precision.FP32)],
)
def test_dominant_precision(macs, expected):
    assert dominant_precision({}, macs) is expected
