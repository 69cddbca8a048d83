"""Small models that meet one fact each, and small ones that meet none."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.engines import models
from tests.engines.models import one_node, value


def _older(distribution: str, than: tuple[int, int]) -> bool:
    try:
        return tuple(map(int, version(distribution).split(".")[:2])) < than
    except PackageNotFoundError:
        return False  # what needs it is skipped anyway


as_measured_ort = pytest.mark.skipif(_older("onnxruntime", (1, 31)), reason="the facts are of onnxruntime 1.31")
as_measured_rtx = pytest.mark.skipif(_older("tensorrt-rtx-cu13", (1, 7)), reason="the facts are of TensorRT-RTX 1.7")
"""What rejects must still reject: that is asked of the versions that the table names, and of newer ones."""

FLOAT, HALF, BF16 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16
INT64, INT8, UINT8 = TensorProto.INT64, TensorProto.INT8, TensorProto.UINT8


def constant(name: str, content: object, dtype: type) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(content, dtype=dtype), name)


def of_domain(domain: str, op_type: str) -> onnx.ModelProto:
    node = helper.make_node(op_type, ["x"], ["y"], name=f"/blocks.0/{op_type}", domain=domain)
    proto = models.model([node], [value("x", ["b", 8])], [value("y", ["b", 8])])
    if domain != "tofu":
        proto.opset_import.add(domain=domain, version=1)
    return proto


def scatter(op_type: str, reduction: str, dtype: int) -> onnx.ModelProto:
    """A scatter whose data are cast to its type and back, as numpy has no BF16."""
    index = value("i", [2, 1] if op_type == "ScatterND" else [2, 4], INT64)
    updates = value("u", [2, 8] if op_type == "ScatterND" else [2, 4])
    nodes = [
        helper.make_node("Cast", ["x"], ["data"], to=dtype),
        helper.make_node("Cast", ["u"], ["updates"], to=dtype),
        helper.make_node(op_type, ["data", "i", "updates"], ["r"], name=f"/blocks.0/{op_type}", reduction=reduction),
        helper.make_node("Cast", ["r"], ["y"], to=FLOAT),
    ]
    return models.model(nodes, [value("x", [2, 8]), index, updates], [value("y", [2, 8])])


def unary(op_type: str, dtype: int = FLOAT, result: int | None = None, opset: int = 18, **attributes: object):
    return one_node(op_type, [value("x", [4, 8], dtype)], value("y", None, result or dtype), opset=opset, **attributes)


def binary(op_type: str, dtype: int, result: int | None = None, **attributes: object) -> onnx.ModelProto:
    inputs = [value("x", [8, 8], dtype), value("z", [8, 8], dtype)]
    return one_node(op_type, inputs, value("y", [8, 8], result or dtype), **attributes)


def quantized(dtype: type, zero: int) -> onnx.ModelProto:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="/blocks.0/QuantizeLinear"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], name="/blocks.0/DequantizeLinear"),
    ]
    constants = [constant("s", 0.1, np.float32), constant("z", zero, dtype)]
    return models.model(nodes, [value("x", [4, 8])], [value("y", [4, 8])], constants)


def dropout(training: bool) -> onnx.ModelProto:
    constants = [constant("r", 0.5, np.float32), constant("t", training, np.bool_)]
    return one_node("Dropout", [value("x", [4, 8])], value("y", [4, 8]), constants)


def attention(dtype: int, rows: int, head_size: int = 64) -> onnx.ModelProto:
    qkv = [value(name, [1, 3, 16, head_size], dtype) for name in "qkv"]
    mask = value("m", [1, 1, rows, 16], dtype)
    return one_node("Attention", [*qkv, mask], value("y", [1, 3, 16, head_size], dtype), opset=23)


def undefined() -> onnx.ModelProto:
    proto = models.block()
    proto.graph.node[1].input[0] = "nobody"
    return proto


def sequence(op_type: str) -> onnx.ModelProto:
    """The operator on a sequence of two tensors, made by another one where it needs that."""
    made = helper.make_node("SequenceConstruct", ["x", "x"], ["s"], name="made")
    last = helper.make_node("SequenceAt", ["r", "one"], ["y"], name="last")
    nodes = {
        "SequenceConstruct": [helper.make_node("SequenceConstruct", ["x", "x"], ["r"], name="it"), last],
        "SequenceEmpty": [
            helper.make_node("SequenceEmpty", [], ["e"], name="it"),
            helper.make_node("SequenceInsert", ["e", "x"], ["r"]),
            helper.make_node("SequenceAt", ["r", "zero"], ["y"]),
        ],
        "SequenceInsert": [made, helper.make_node("SequenceInsert", ["s", "x"], ["r"], name="it"), last],
        "SequenceErase": [
            made,
            helper.make_node("SequenceErase", ["s", "one"], ["r"], name="it"),
            helper.make_node("SequenceAt", ["r", "zero"], ["y"]),
        ],
        "SequenceAt": [made, helper.make_node("SequenceAt", ["s", "one"], ["y"], name="it")],
        "SequenceLength": [made, helper.make_node("SequenceLength", ["s"], ["y"], name="it")],
        "ConcatFromSequence": [made, helper.make_node("ConcatFromSequence", ["s"], ["y"], name="it", axis=0)],
        "SplitToSequence": [helper.make_node("SplitToSequence", ["x"], ["r"], name="it", axis=0), last],
    }[op_type]
    dtype = INT64 if op_type == "SequenceLength" else FLOAT
    constants = [constant("one", 1, np.int64), constant("zero", 0, np.int64)]
    return models.model(nodes, [value("x", [4, 8])], [value("y", None, dtype)], constants)


def _quantized_product(op_type: str) -> onnx.ModelProto:
    scale, zero = [constant("s", 0.1, np.float32), constant("z", 0, np.int8)]
    weight = constant("w", np.ones((8, 8, 1, 1) if op_type == "QLinearConv" else (8, 8)), np.int8)
    node = helper.make_node(op_type, ["x", "s", "z", "w", "s", "z", "s", "z"], ["y"], name=f"/blocks.0/{op_type}")
    shape = [1, 8, 4, 4] if op_type == "QLinearConv" else [4, 8]
    return models.model([node], [value("x", shape, INT8)], [value("y", shape, INT8)], [scale, zero, weight])


SEQUENCES = (
    "ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert",
    "SequenceLength", "SplitToSequence",
)  # fmt: skip

RTX_REJECTS: dict[str, dict[str, onnx.ModelProto]] = {
    "canonical-node": {"Fuse": of_domain("tofu", "Fuse")},
    "undefined-input": {"block": undefined()},
    "custom-domain": {"Thing": of_domain("my.domain", "Thing")},
    "contrib-op": {name: of_domain("com.microsoft", name) for name in ("QuickGelu", "BiasSplitGelu")},
    "scatter-reduction": {
        f"{reduction} {dtype}": scatter("ScatterElements", reduction, dtype)
        for reduction in ("add", "mul", "max", "min")
        for dtype in (FLOAT, HALF)
    },
    "scatter-indices": {
        "axis 1": one_node(
            "ScatterElements",
            [value("x", [2, 4]), value("i", [2, 6], INT64), value("u", [2, 6])],
            value("y", [2, 4]),
            axis=1,
        )
    },
    "scatternd-reduction": {
        reduction: scatter("ScatterND", reduction, FLOAT) for reduction in ("add", "mul", "max", "min")
    },
    "data-dependent-shape": {"NonZero": models.nonzero()},
    "unsupported-op": {
        "Bernoulli": unary("Bernoulli"),
        "BitShift": binary("BitShift", UINT8, direction="LEFT"),
        "Compress": one_node(
            "Compress", [value("x", [4, 8]), value("c", [4], TensorProto.BOOL)], value("y", None), axis=0
        ),
        "ConvInteger": one_node(
            "ConvInteger",
            [value("x", [1, 8, 4, 4], UINT8), value("w", [8, 8, 1, 1], UINT8)],
            value("y", None, TensorProto.INT32),
        ),
        "Det": one_node("Det", [value("x", [2, 8, 8])], value("y", [2])),
        "DynamicQuantizeLinear": models.model(
            [helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"], name="it")],
            [value("x", [4, 8])],
            [value("y", [4, 8], UINT8), value("s", []), value("z", [], UINT8)],
        ),
        "MatMulInteger": binary("MatMulInteger", UINT8, TensorProto.INT32),
        "Multinomial": one_node("Multinomial", [value("x", [4, 8])], value("y", None, TensorProto.INT32)),
        "QLinearConv": _quantized_product("QLinearConv"),
        "QLinearMatMul": _quantized_product("QLinearMatMul"),
        "Unique": one_node("Unique", [value("x", [8])], value("y", None)),
        **{name: sequence(name) for name in SEQUENCES},
    },
    "dft": {"DFT": one_node("DFT", [value("x", [1, 8, 1])], value("y", None), axis=1)},
    "antialiased-resize": {"cubic": models.resize(1)},
    "softmax-precision": {"fp16": models.attention("fp16", softmax_precision=1)},
    "not-in-bf16": {
        "LpNormalization": models.lp_normalization("bf16"),
        **{name: unary(name, BF16, opset=22) for name in ("HardSwish", "Mish")},
        **{name: unary(name, BF16, opset=22) for name in ("RandomNormalLike", "RandomUniformLike")},
    },
    "no-such-type": {
        "text": unary("Identity", TensorProto.STRING),
        "int16": binary("Add", TensorProto.INT16),
        "uint16": binary("Add", TensorProto.UINT16),
    },
    "zero-point": {"int8": quantized(np.int8, 5), "uint8": quantized(np.uint8, 128)},
    "training-dropout": {"Dropout": dropout(True)},
}
"""By rule, then by name: what TensorRT-RTX refuses to parse."""

RTX_CANNOT_BUILD: dict[str, tuple[onnx.ModelProto, str]] = {
    "topk-limit": (models.topk(3841), "SM89"),
    "fp32-attention": (models.attention("fp32"), "SM89"),
    "wide-attention": (models.attention("fp16", head_dim=512), "SM89"),
    "turing-fp32": (models.fp32_island(), "SM75"),
    "turing-bf16": (models.block("bf16"), "SM75"),
}
"""By rule: what it parses and does not build, and for which capability."""

ORT_REJECTS: dict[str, dict[str, onnx.ModelProto]] = {
    "canonical-node": RTX_REJECTS["canonical-node"],
    "undefined-input": RTX_REJECTS["undefined-input"],
    "custom-domain": RTX_REJECTS["custom-domain"],
    "cpu-scatter-fp16": {name: scatter("ScatterElements", name, HALF) for name in ("add", "mul")},
    "cpu-scatternd-fp16": {name: scatter("ScatterND", name, HALF) for name in ("add", "mul", "max", "min")},
    "cpu-scatter-bf16": {
        f"{op_type} {name}": scatter(op_type, name, BF16)
        for op_type in ("ScatterElements", "ScatterND")
        for name in ("add", "mul", "max", "min")
    },
    "cpu-bf16": {
        "MatMul": binary("MatMul", BF16),
        "Softmax": unary("Softmax", BF16),
        "TopK": one_node(
            "TopK",
            [value("x", [4, 8], BF16)],
            value("y", [4, 2], BF16),
            [constant("k", [2], np.int64)],
            opset=24,
            more_outputs=["i"],
        ),
    },
    "attention-mask": {"fp32": attention(FLOAT, 1), "fp16": attention(HALF, 1)},
}
"""By rule, then by name: what onnxruntime does not load, or not run."""

ACCEPTED: dict[str, onnx.ModelProto] = {
    "block": models.block(),
    "block fp16": models.block("fp16"),
    "scatter": scatter("ScatterElements", "none", FLOAT),
    "scatter_nd": scatter("ScatterND", "none", FLOAT),
    "topk": models.topk(3840),
    "resize": models.resize(0),
    "attention": attention(HALF, 16),
    "LpNormalization": models.lp_normalization("fp32"),
    "int8": quantized(np.int8, 0),
    "dropout": dropout(False),
}
"""What both run, and nothing is said about."""
