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


def quantized(dtype: type, zero: int, scale: float = 0.1) -> onnx.ModelProto:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="/blocks.0/QuantizeLinear"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], name="/blocks.0/DequantizeLinear"),
    ]
    constants = [constant("s", scale, np.float32), constant("z", zero, dtype)]
    return models.model(nodes, [value("x", [4, 8])], [value("y", [4, 8])], constants)


def moved_weights() -> onnx.ModelProto:
    """Weights in int8 that are turned before they are dequantised."""
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"], name="/head/Transpose"),
        helper.make_node("DequantizeLinear", ["t", "s"], ["d"], name="/head/DequantizeLinear"),
        helper.make_node("MatMul", ["x", "d"], ["y"], name="/head/MatMul"),
    ]
    constants = [constant("w", np.ones((3, 8)), np.int8), constant("s", 0.1, np.float32)]
    return models.model(nodes, [value("x", [4, 8])], [value("y", [4, 3])], constants)


def branches_of_other_ranks() -> onnx.ModelProto:
    then = helper.make_graph([helper.make_node("Identity", ["x"], ["t"])], "then", [], [value("t", None)])
    flat = helper.make_graph([helper.make_node("Reshape", ["x", "all"], ["f"])], "flat", [], [value("f", None)])
    node = helper.make_node("If", ["c"], ["y"], name="if", then_branch=then, else_branch=flat)
    inputs = [value("c", [], TensorProto.BOOL), value("x", [2, 3])]
    return models.model([node], inputs, [value("y", None)], [constant("all", [-1], np.int64)])


def looped(condition: str) -> onnx.ModelProto:
    nodes = [helper.make_node("Relu", ["s"], ["r"]), helper.make_node("Identity", ["c"], ["go"])]
    given = [value("i", [], INT64), value("c", [], TensorProto.BOOL), value("s", [2, 3])]
    body = helper.make_graph(nodes, "body", given, [value("go", [], TensorProto.BOOL), value("r", [2, 3])])
    node = helper.make_node("Loop", ["n", condition, "x"], ["y"], name="loop", body=body)
    constants = [constant("n", 3, np.int64), constant("always", True, np.bool_)]
    return models.model([node], [value("x", [2, 3])], [value("y", [2, 3])], constants)


def attend(
    more: dict[str, tuple[int, list[int]]], *names: str, width: int = 16, **attributes: object
) -> onnx.ModelProto:
    """An Attention in FP16 with further inputs."""
    inputs = [value("q", [1, 2, 8, 16], HALF), value("k", [1, 2, 8, 16], HALF), value("v", [1, 2, 8, width], HALF)]
    node = helper.make_node("Attention", ["q", "k", "v", *names], ["y"], name="attend", **attributes)
    inputs += [value(name, shape, kind) for name, (kind, shape) in more.items()]
    return models.model([node], inputs, [value("y", None, HALF)], opset=24)


def dropout(training: bool) -> onnx.ModelProto:
    constants = [constant("r", 0.5, np.float32), constant("t", training, np.bool_)]
    return one_node("Dropout", [value("x", [4, 8])], value("y", [4, 8]), constants)


def attention(dtype: int, rows: int, head_size: int = 64) -> onnx.ModelProto:
    qkv = [value(name, [1, 3, 16, head_size], dtype) for name in "qkv"]
    mask = value("m", [1, 1, rows, 16], dtype)
    return one_node("Attention", [*qkv, mask], value("y", [1, 3, 16, head_size], dtype), opset=23)


def through(dtype: int) -> onnx.ModelProto:
    """Numbers that are cast to a type and back."""
    nodes = [helper.make_node("Cast", ["x"], ["c"], name="to", to=dtype),
             helper.make_node("Cast", ["c"], ["y"], name="back", to=FLOAT)]  # fmt: skip
    return models.model(nodes, [value("x", [4, 8])], [value("y", [4, 8])], opset=21)


def ranged(dtype: int) -> onnx.ModelProto:
    return one_node("Range", [value(name, [], dtype) for name in ("a", "b", "c")], value("y", ["n"], dtype), opset=27)


def resized(*, sizes: bool = False, **attributes: object) -> onnx.ModelProto:
    empty = constant("none", [], np.float32)
    last = constant("to", [1, 1, 8, 8], np.int64) if sizes else constant("to", [1, 1, 2, 2], np.float32)
    names = ["x", "", "", "to"] if sizes else ["x", "none", "to"]
    node = helper.make_node("Resize", names, ["y"], name="/blocks.0/Resize", mode="linear", **attributes)
    return models.model([node], [value("x", [1, 1, 4, 4])], [value("y", [1, 1, 8, 8])], [empty, last], opset=19)


def old_add() -> onnx.ModelProto:
    proto = one_node("Add", [value("x", [4, 8]), value("z", [8])], value("y", [4, 8]), opset=6, broadcast=1)
    proto.ir_version = 3
    return proto


def batch_norm() -> onnx.ModelProto:
    constants = [constant(name, np.ones(8), np.float32) for name in ("s", "b", "m", "v")]
    return one_node("BatchNormalization", [value("x", [4, 8])], value("y", [4, 8]), constants,
                    more_outputs=["mean", "var"], training_mode=1)  # fmt: skip


def in_branches() -> onnx.ModelProto:
    """An Attention that is computed or not."""
    shape = [1, 1, 256, 64]
    then = helper.make_graph([helper.make_node("Attention", ["q", "k", "v"], ["t"], name="inner")], "then", [],
                             [value("t", shape, HALF)])  # fmt: skip
    other = helper.make_graph([helper.make_node("Identity", ["q"], ["o"])], "other", [], [value("o", shape, HALF)])
    node = helper.make_node("If", ["c"], ["y"], name="if", then_branch=then, else_branch=other)
    inputs = [value("c", [], TensorProto.BOOL), *(value(name, shape, HALF) for name in "qkv")]
    return models.model([node], inputs, [value("y", shape, HALF)], opset=23)


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
    "no-importer": {
        "DFT": one_node("DFT", [value("x", [1, 8, 1])], value("y", None), axis=1),
        "EfficientNMS_TRT": unary("EfficientNMS_TRT"),
        "ai.onnx.ml": of_domain("ai.onnx.ml", "Normalizer"),
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
    "antialiased-resize": {"cubic": models.resize(1)},
    "softmax-precision": {"fp16": models.attention("fp16", softmax_precision=1)},
    "not-in-bf16": {
        "LpNormalization": models.lp_normalization("bf16"),
        **{name: unary(name, BF16, opset=22) for name in ("HardSwish", "Mish")},
        **{name: unary(name, BF16, opset=22) for name in ("RandomNormalLike", "RandomUniformLike")},
    },
    "unknown-type": {
        "text": unary("Identity", TensorProto.STRING),
        "int16": binary("Add", TensorProto.INT16),
        "uint16": binary("Add", TensorProto.UINT16),
        "uint32 beside": unary("Cast", FLOAT, TensorProto.UINT32, to=TensorProto.UINT32),
        "fp8": unary("Identity", TensorProto.FLOAT8E5M2, opset=21),
    },
    "needs-plugin": {
        "RoiAlign": one_node(
            "RoiAlign",
            [value("x", [1, 2, 8, 8]), value("r", [3, 4]), value("b", [3], INT64)],
            value("y", [3, 2, 1, 1]),
        ),
    },
    "uint8": {"Add": binary("Add", UINT8), "inside": through(UINT8)},
    "axes-not-constant": {
        name: one_node(name, [value("x", [4, 8]), value("a", [1], INT64)], value("y", shape))
        for name, shape in {"ReduceSum": [1, 1], "ReduceMax": [1, 1], "Unsqueeze": [1, 4, 8]}.items()
    },
    "depth-not-constant": {
        "OneHot": one_node("OneHot", [value("x", [4], INT64), value("d", []), value("v", [2])], value("y", [4, "d"]))
    },
    "dequantized-int32": {
        "bias": one_node(
            "DequantizeLinear", [value("x", [8], TensorProto.INT32)], value("y", [8]), [constant("s", 0.5, np.float32)]
        )
    },
    "mod-type": {"fp32": binary("Mod", FLOAT)},
    "celu-half": {"fp16": unary("Celu", HALF, opset=26)},
    "range-half": {"fp16": ranged(HALF)},
    "range-fp32": {"fp32": ranged(FLOAT)},
    "dropout-mode": {
        "Dropout": one_node(
            "Dropout", [value("x", [4, 8]), value("r", []), value("t", [], TensorProto.BOOL)], value("y", [4, 8])
        )
    },
    "frame-step": {
        "STFT": one_node(
            "STFT",
            [value("x", [1, 64, 1]), value("f", [], INT64)],
            value("y", [1, 7, 9, 2]),
            [constant("w", np.ones(16), np.float32)],
        ),
    },
    "resize-mode": {
        "crop": resized(coordinate_transformation_mode="half_pixel_symmetric"),
        "aspect": resized(sizes=True, keep_aspect_ratio_policy="not_larger"),
        "scales": one_node(
            "Resize", [value("x", [1, 1, 4, 4]), value("r", [0]), value("s", [4])], value("y", [1, 1, "h", "w"])
        ),
    },
    "old-broadcast": {"Add": old_add()},
    "statistics": {
        "LayerNormalization": one_node(
            "LayerNormalization",
            [value("x", [4, 8])],
            value("y", [4, 8]),
            [constant("s", np.ones(8), np.float32), constant("b", np.ones(8), np.float32)],
            more_outputs=["m"],
        ),
        "MaxPool": one_node(
            "MaxPool",
            [value("x", [1, 1, 8, 8])],
            value("y", [1, 1, 4, 4]),
            kernel_shape=[2, 2],
            strides=[2, 2],
            more_outputs=["i"],
        ),
    },
    "training-batches": {"BatchNormalization": batch_norm()},
    "dilated-pool": {
        name: one_node(
            name, [value("x", [1, 1, 8, 8])], value("y", [1, 1, 6, 6]), opset=22, kernel_shape=[2, 2], dilations=[2, 2]
        )
        for name in ("AveragePool", "LpPool", "MaxPool")
    },
    "pool-norm": {
        "p = 3": one_node("LpPool", [value("x", [1, 1, 8, 8])], value("y", [1, 1, 7, 7]), kernel_shape=[2, 2], p=3)
    },
    "clip-int8": {
        "int8": one_node("Clip", [value("x", [4, 8], INT8), value("low", [], INT8)], value("y", [4, 8], INT8))
    },
    "cache-form": {
        "circular": one_node(
            "TensorScatter",
            [value("x", [1, 2, 8, 4]), value("u", [1, 2, 2, 4])],
            value("y", [1, 2, 8, 4]),
            opset=24,
            mode="circular",
        ),
    },
    "attention-outputs": {
        "qk": one_node(
            "Attention",
            [value(name, [1, 2, 16, 64], HALF) for name in "qkv"],
            value("y", [1, 2, 16, 64], HALF),
            opset=23,
            more_outputs=["", "", "qk"],
        ),
    },
    "attention-softcap": {"fp16": models.attention("fp16", softcap=2.0)},
    "attention-cache": {"keys": attend({"pk": (HALF, [1, 2, 4, 16]), "pv": (HALF, [1, 2, 4, 16])}, "", "pk", "pv")},
    "attention-width": {"values": attend({}, width=24)},
    "attention-mask-type": {"integers": attend({"m": (INT64, [8, 8])}, "m")},
    "attention-mask-shape": {
        "keys": attend({"m": (HALF, [8, 4])}, "m"),
        "batch": attend({"m": (HALF, [3, 1, 8, 8])}, "m"),
    },
    "attention-mask-causal": {"fp16": attend({"m": (HALF, [8, 8])}, "m", is_causal=1)},
    "scale-not-positive": {
        name: quantized(np.int8, 0, scale) for name, scale in (("zero", 0.0), ("below", -0.1), ("nan", np.nan))
    },
    "loop-condition": {"none": looped("")},
    "slice-axes": {
        "one of two": one_node(
            "Slice",
            [value("x", [4, 4])],
            value("y", None),
            [constant("s", [1], np.int64), constant("e", [3], np.int64)],
        )
    },
    "zero-point": {"int8": quantized(np.int8, 5), "uint8": quantized(np.uint8, 128)},
    "training-dropout": {"Dropout": dropout(True)},
}
"""By rule, then by name: what TensorRT-RTX refuses to parse."""

RTX_CANNOT_BUILD: dict[str, tuple[onnx.ModelProto, str]] = {
    "topk-limit": (models.topk(3841), "SM89"),
    "fp32-attention": (models.attention("fp32"), "SM89"),
    "wide-attention": (models.attention("fp16", head_dim=512), "SM89"),
    "attention-in-branch": (in_branches(), "SM89"),
    "narrow-attention": (models.attention("fp16", head_dim=8), "SM89"),
    "quantized-constant": (moved_weights(), "SM89"),
    "branches-differ": (branches_of_other_ranks(), "SM89"),
    "cast-quantized": (through(TensorProto.FLOAT8E4M3FN), "SM89"),
    "zero-point-not-constant": (
        one_node(
            "QuantizeLinear", [value("x", [4, 8]), value("s", []), value("z", [], INT8)], value("y", [4, 8], INT8)
        ),
        "SM89",
    ),
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
    "loop": looped("always"),
    "a mask for all heads": attend({"m": (HALF, [1, 1, 8, 8])}, "m"),
}
"""What both run, and nothing is said about."""
