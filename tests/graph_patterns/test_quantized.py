"""Quantised products: which ones, in which form, and what smoothing leaves as it was."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from tests import families, tiny
from tests.graph_patterns.quantized_files import Array, constant, producer
from tofu_export.graph_patterns.lowering import lower
from tofu_export.graph_patterns.quantized.check import first_difference
from tofu_export.graph_patterns.quantized.form import FORMS, INT8, Form
from tofu_export.graph_patterns.quantized.products import (
    activations_of,
    is_skipped,
    products_of,
    quantize_products,
    smooth,
)
from tofu_export.options import Precision, Reduction, Target
from tofu_export.system.ort import open_session
from tofu_export.trace.export import trace

SOME = Reduction(r=(3, 2, 4), pattern="PAM")
LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")

HALF = (Precision.INT8_FP16, Precision.FP8)

Mutation = Callable[[ir.Model, Form], None]


def ranges(model: ir.Model, largest: float = 4.0) -> dict[str, Array]:
    """Made-up ranges of the activations: what matters here is where they go."""
    rng = np.random.default_rng(0)
    return {
        name: (largest * rng.uniform(0.1, 1, channels)).astype(np.float32)
        for name, channels in activations_of(products_of(model)).items()
    }


def quantized(target: Target = Target.PORTABLE) -> ir.Model:
    model = tiny.lowered("cls", SOME, target)
    quantize_products(model, products_of(model), ranges(model), INT8)
    return model


@pytest.mark.parametrize("target", list(Target))
def test_the_layers_of_the_blocks_are_in_int8_and_nothing_else(target: Target) -> None:
    model = quantized(target)
    products = [node for node in model.graph if node.op_type == "MatMul" and producer_is(node, "DequantizeLinear")]
    assert {node.name for node in products} == {f"blocks.{b}.{layer}/MatMul" for b in range(3) for layer in LAYERS}
    for node in model.graph:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        assert node.name is not None
        assert "/fuse/" not in node.name
        assert "Attention" not in node.name
        readers = {reader for reader, _ in node.outputs[0].uses()}
        expected = {"DequantizeLinear"} if node.op_type == "QuantizeLinear" else {"MatMul"}
        assert {reader.op_type for reader in readers} == expected
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def producer_is(node: ir.Node, kind: str) -> bool:
    value = node.inputs[0]
    return value is not None and value.producer() is not None and producer(value).op_type == kind


def test_weights_are_symmetric_with_a_scale_for_each_column() -> None:
    source = tiny.lowered("cls", SOME)
    weights = {node.name: constant(node.inputs[1]) for node in products_of(source)}
    found = ranges(source)
    names = {node.name: node.inputs[0].name for node in products_of(source)}  # type: ignore[union-attr]
    for node in (node for node in quantized().graph if node.name in weights):
        wide = producer(node.inputs[1])
        steps, scales = (constant(value) for value in wide.inputs)
        assert wide.attributes["axis"].as_int() == 1
        assert steps.dtype == np.int8
        assert_allclose(scales, np.abs(weights[node.name]).max(axis=0) / 127, rtol=1e-6)
        assert_array_equal(np.abs(steps.astype(int)).max(axis=0), 127)
        assert (np.abs(steps * scales - weights[node.name]) <= scales * 0.5001).all()
        narrow = producer(producer(node.inputs[0]).inputs[0])
        scale, zero = (constant(value) for value in narrow.inputs[1:])
        assert scale.shape == zero.shape == ()
        assert zero.dtype == np.int8
        assert zero == 0
        assert_allclose(scale, found[str(names[node.name])].max() / 127, rtol=1e-6)


def test_weights_and_scales_are_those_of_onnxruntimes_quantizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another implementation, given the same images, comes to the same numbers."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    from tofu_export.trace import quantize as module

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        images = iter(tiny.pixels(4))

        def get_next(self) -> dict[str, Array] | None:
            image = next(self.images, None)
            return None if image is None else {"input": image[None]}

    source = tmp_path / "source.onnx"
    source.write_bytes(tiny.to_bytes(tiny.lowered("cls", SOME)))
    monkeypatch.setattr(module, "smooth", lambda *_: {})
    options: dict[str, Any] = {"precision": Precision.INT8, "origin": "noise", "real": False}
    module.quantize(source, tmp_path / "ours.onnx", tiny.pixels(4), {}, **options)
    monkeypatch.setattr(logging.getLogger(), "level", logging.ERROR)
    quantize_static(
        str(source), str(tmp_path / "theirs.onnx"), Reader(),
        quant_format=QuantFormat.QDQ, per_channel=True, op_types_to_quantize=["MatMul"],
        nodes_to_quantize=[node.name for node in products_of(tiny.lowered("cls", SOME))],
        activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
        extra_options={"ActivationSymmetric": True, "OpTypesToExcludeOutputQuantization": ["MatMul"]},
    )  # fmt: skip
    ours, theirs = (
        {node.name: node for node in ir.load(tmp_path / f"{name}.onnx").graph} for name in ("ours", "theirs")
    )
    for name in (f"blocks.{b}.{layer}/MatMul" for b in range(3) for layer in LAYERS):
        *both, zeros = producer(theirs[name].inputs[1]).inputs
        assert not constant(zeros).any()  # as ours, which are left out
        for mine, other in zip(producer(ours[name].inputs[1]).inputs, both, strict=True):
            assert_allclose(
                constant(mine), constant(other), rtol=1e-6, atol=1 if constant(mine).dtype == np.int8 else 0
            )
        mine, other = (constant(producer(each[name].inputs[0]).inputs[1]) for each in (ours, theirs))
        assert_allclose(mine, other, rtol=1e-5)


@cache
def family(name: str) -> ir.Model:
    return lower(trace(families.reduced(name, Reduction(r=3)), tiny.SHAPE), Target.PORTABLE, Precision.FP32)


@pytest.mark.parametrize(("name", "left"), [("eva", 0), ("cait", 8)])
def test_other_families(name: str, left: int) -> None:
    """All linear layers of the blocks. CaiT keeps its six that mix heads and the two queries of one token alone."""
    model = family(name)
    layers = {
        path for path, layer in families.build(name).named_modules()
        if isinstance(layer, nn.Linear) and path.startswith("blocks")
    }  # fmt: skip
    chosen = {str(node.name).rpartition("/")[0] for node in products_of(model)}
    assert chosen < layers if left else chosen == layers
    assert len(layers - chosen) == left
    assert not left or {path.rpartition(".")[2] for path in layers - chosen} == {"proj_l", "proj_w", "q"}


def test_an_activation_that_several_products_read_is_quantised_once() -> None:
    model = tiny.from_bytes(tiny.to_bytes(family("eva")))  # queries, keys and values have a layer each
    products = products_of(model)
    quantize_products(model, products, ranges(model), INT8)
    quantisers = [node for node in model.graph if node.op_type == "QuantizeLinear"]
    assert len(quantisers) == len({node.inputs[0] for node in quantisers}) < len(products)


def uneven(model: ir.Model, ratio: float = 40.0) -> None:
    """Make three channels of each norm's output `ratio` times what they were, and undo it in the weights."""
    rng = np.random.default_rng(0)
    for node in products_of(model):
        norm = producer(node.inputs[0])
        if norm.op_type != "LayerNormalization":
            continue
        factor = np.ones(len(constant(node.inputs[1])), dtype=np.float32)
        factor[rng.choice(len(factor), 3, replace=False)] = ratio
        for reader, index, array in (
            (norm, 1, constant(norm.inputs[1]) * factor),
            (norm, 2, constant(norm.inputs[2]) * factor),
            (node, 1, constant(node.inputs[1]) / factor[:, None]),
        ):
            name = f"{reader.name}_uneven_{index}"
            model.graph.initializers[name] = value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
            reader.replace_input_with(index, value)


def logits(model: ir.Model, pixels: Array) -> Array:
    return open_session(tiny.to_bytes(model)).run({"input": pixels})["logits"]


def seen(model: ir.Model, pixels: Array) -> dict[str, Array]:
    """Ranges of the activations on images, found independently of the code under test."""
    proto = ir.to_proto(model)
    names = list(activations_of(products_of(model)))
    proto.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    out = open_session(proto.SerializeToString()).run({"input": pixels})
    return {name: np.abs(out[name]).reshape(-1, out[name].shape[-1]).max(axis=0) for name in names}


def test_smoothing_changes_no_number_and_evens_the_channels() -> None:
    images = tiny.pixels(4)
    model = tiny.lowered("cls", SOME)
    uneven(model)
    before, expected = seen(model, images), logits(model, images)
    factors = smooth(model, products_of(model), before)
    norms = {value.name for value in (node.inputs[0] for node in products_of(model)) if value is not None
             and producer(value).op_type == "LayerNormalization"}  # fmt: skip
    assert set(factors) == norms
    assert len(norms) == 6
    assert_allclose(logits(model, images), expected, rtol=0, atol=2e-5)
    after = seen(model, images)
    for name in norms:
        assert_allclose(after[name], before[name] / factors[name], rtol=1e-4)
        assert after[name].max() / np.median(after[name]) < 0.4 * before[name].max() / np.median(before[name])


def test_uneven_channels_cost_nothing_once_smoothed() -> None:
    images = tiny.pixels(16)
    errors = {}
    for kind in ("even", "uneven", "smoothed"):
        model = tiny.lowered("cls", Reduction(r=0))  # without decisions, the error is that of the arithmetic alone
        if kind != "even":
            uneven(model)
        expected, largest = logits(model, images), seen(model, images)
        products = products_of(model)
        factors = smooth(model, products, largest) if kind == "smoothed" else {}
        smoothed = {name: found / factors.get(name, 1) for name, found in largest.items()}
        quantize_products(model, products, smoothed, INT8)
        errors[kind] = float(np.sqrt(np.square(logits(model, images) - expected).mean()))
    assert errors["smoothed"] < 1.5 * errors["even"]
    assert errors["uneven"] > 3 * errors["smoothed"]


def norm_and_products(*, other_reader: bool) -> ir.Model:
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
        for name, shape in {"g": (32,), "b": (32,), "w": (32, 24), "v": (32, 20)}.items()
    ]
    nodes = [
        helper.make_node("LayerNormalization", ["x", "g", "b"], ["n"], name="blocks.0.norm1/LayerNormalization"),
        helper.make_node("MatMul", ["n", "w"], ["y"], name="blocks.0.attn.q/MatMul"),
        helper.make_node("MatMul", ["n", "v"], ["z"], name="blocks.0.attn.k/MatMul"),
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", "z")]
    if other_reader:
        nodes.append(helper.make_node("Neg", ["n"], ["m"], name="blocks.0/Neg"))
        outputs.append(helper.make_tensor_value_info("m", TensorProto.FLOAT, None))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 32])]
    return ir.from_proto(helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, weights), ir_version=10))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("blocks.0.attn.q/MatMul", True),
        ("blocks_token_only.1.attn.q/MatMul", True),
        ("blocks.0/fuse/merge/MatMul", False),
        ("head/MatMul", False),
        ("attn_pool.mlp.fc1/MatMul", False),
    ],
)
def test_a_place_decides_whether_a_product_goes_in_int8(name: str, expected: bool) -> None:
    model = norm_and_products(other_reader=False)
    first, second = products_of(model)
    first.name = name
    assert products_of(model) == ([first, second] if expected else [second])


def test_products_to_few_channels_stay_as_well_as_those_over_few() -> None:
    model = norm_and_products(other_reader=False)
    first, second = products_of(model)
    narrow = ir.tensor(np.ones((32, 16), np.float32), name="narrow")
    model.graph.initializers["narrow"] = value = ir.Value(
        name="narrow", shape=ir.Shape(narrow.shape), type=ir.TensorType(narrow.dtype), const_value=narrow
    )
    second.replace_input_with(1, value)
    assert products_of(model) == [first]


@pytest.mark.parametrize(
    ("skip", "left_out"),
    [
        ((), set()),
        (("1",), {"blocks.1.attn.qkv/MatMul", "blocks.1.mlp.fc1/MatMul"}),
        (("fc1",), {"blocks.1.mlp.fc1/MatMul", "blocks.11.mlp.fc1/MatMul"}),
        (("attn.qkv", "11"), {"blocks.1.attn.qkv/MatMul", "blocks.11.mlp.fc1/MatMul"}),
        (("mlp",), {"blocks.1.mlp.fc1/MatMul", "blocks.11.mlp.fc1/MatMul"}),
        (("blocks.1.mlp",), {"blocks.1.mlp.fc1/MatMul"}),
        (("attn", "tokens.0"), {"blocks.1.attn.qkv/MatMul"}),
    ],
)
def test_blocks_by_number_and_modules_by_name_are_left_out(skip: tuple[str, ...], left_out: set[str]) -> None:
    names = ["blocks.1.attn.qkv/MatMul", "blocks.1.mlp.fc1/MatMul", "blocks.11.mlp.fc1/MatMul"]
    nodes = [ir.Node("", "MatMul", [], name=name) for name in names]
    assert {node.name for node in nodes if is_skipped(node, skip)} == left_out


@pytest.mark.parametrize("other_reader", [False, True])
def test_a_norm_that_others_read_is_left_as_it_is(other_reader: bool) -> None:
    model = norm_and_products(other_reader=other_reader)
    products = products_of(model)
    factors = smooth(model, products, {"n": np.linspace(0, 9, 32, dtype=np.float32)})
    assert set(factors) == (set() if other_reader else {"n"})
    norm, *_ = model.graph
    assert (norm.inputs[1].name == "g") is other_reader  # type: ignore[union-attr]


def test_a_channel_that_is_always_0_stays_finite() -> None:
    model = norm_and_products(other_reader=False)
    largest = {"n": np.zeros(32, dtype=np.float32)}
    factors = smooth(model, products_of(model), largest)
    quantize_products(model, products_of(model), {"n": largest["n"] / factors["n"]}, INT8)
    arrays = [value.const_value.numpy() for value in model.graph.initializers.values() if value.const_value is not None]
    assert all(np.isfinite(array).all() for array in arrays)


# --- Beside float16 -----------------------------------------------------------------------------------------------


def graph(precision: Precision) -> ir.Model:
    return tiny.lowered("cls", SOME, precision=precision.traced, opset=precision.least_opset)


@pytest.mark.parametrize("precision", HALF)
def test_everything_else_is_the_float16_file(precision: Precision) -> None:
    model, source = graph(precision), graph(precision)
    form = FORMS[precision]
    quantize_products(model, products_of(model), ranges(model), form)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    kept = [node for node in model.graph if node.op_type not in ("QuantizeLinear", "DequantizeLinear")]
    assert [node.name for node in kept] == [node.name for node in source.graph]
    chosen = {node.name for node in products_of(source)}
    assert len(chosen) == tiny.DEPTH * len(LAYERS)
    for node in kept:
        if node.name not in chosen:
            continue
        for value in node.inputs:
            wide = producer(value)
            assert (wide.op_type, wide.outputs[0].dtype) == ("DequantizeLinear", ir.DataType.FLOAT16)
            assert constant(wide.inputs[1]).dtype == np.float16
            assert constant(wide.inputs[2]).dtype == form.numbers.numpy()
        assert constant(producer(node.inputs[1]).inputs[0]).dtype == form.numbers.numpy()


# --- What is written is checked -----------------------------------------------------------------------------------


def times(name: str, factor: Any) -> Mutation:
    def mutate(model: ir.Model, form: Form) -> None:
        value = model.graph.initializers[name]
        array = constant(value).astype(np.float32) * np.asarray(factor)
        value.const_value = ir.tensor(array.astype(constant(value).dtype), name=name)

    return mutate


def turned(model: ir.Model, form: Form) -> None:
    value = model.graph.initializers["blocks.1.mlp.fc1/MatMul_weight_scale"]
    value.const_value = ir.tensor(constant(value)[::-1].copy(), name=value.name)


def one_step(model: ir.Model, form: Form) -> None:
    value = model.graph.initializers[f"blocks.0.attn.qkv/MatMul_weight_{form.name}"]
    steps = constant(value).copy()
    codes = steps.view(np.int8)  # neighbours of E4M3 numbers are neighbours as whole ones
    codes[3, 5] += 1 if codes[3, 5] < 0 else -1
    value.const_value = ir.tensor(steps, name=value.name)


def coarse(model: ir.Model, form: Form) -> None:
    """Scales of twice the size, each weight still rounded to its nearest."""
    name = "blocks.0.attn.proj/MatMul"
    scales = 2 * constant(model.graph.initializers[f"{name}_weight_scale"])
    model.graph.initializers[f"{name}_weight_scale"].const_value = ir.tensor(scales)
    source = tiny.lowered("cls", SOME, precision=Precision.FP16 if scales.dtype == np.float16 else Precision.FP32)
    weight = next(constant(node.inputs[1]) for node in source.graph if node.name == name)
    value = model.graph.initializers[f"{name}_weight_{form.name}"]
    shares = weight.astype(np.float32) / scales.astype(np.float32)
    value.const_value = ir.tensor((np.rint(shares) if form is INT8 else shares).astype(form.numbers.numpy()))


def zero_point(model: ir.Model, form: Form) -> None:
    value = model.graph.initializers[f"{form.name}_zero"]
    value.const_value = ir.tensor(np.array(1, form.numbers.numpy()), name=value.name)


def other_axis(model: ir.Model, form: Form) -> None:
    node = next(node for node in model.graph if node.name == "blocks.0.attn.proj/MatMul_weight_DequantizeLinear")
    node.attributes["axis"] = ir.AttrInt64("axis", 0)


def other_numbers(model: ir.Model, form: Form) -> None:
    """E5M2: more range, and one bit less."""
    value = model.graph.initializers[f"blocks.1.attn.proj/MatMul_weight_{form.name}"]
    value.const_value = ir.tensor(constant(value).astype(ir.DataType.FLOAT8E5M2.numpy()), name=value.name)


def other_activation(model: ir.Model, form: Form) -> None:
    value = model.graph.initializers[f"{form.name}_zero"]
    value.const_value = ir.tensor(np.zeros((), ir.DataType.FLOAT8E5M2.numpy()), name=value.name)


def not_quantised(model: ir.Model, form: Form) -> None:
    node = next(node for node in model.graph if node.name == "blocks.2.mlp.fc2/MatMul")
    node.replace_input_with(0, producer(producer(node.inputs[0]).inputs[0]).inputs[0])


def renamed(model: ir.Model, form: Form) -> None:
    next(node for node in model.graph if node.name == "blocks.2.mlp.fc2/MatMul").name = "other"


@pytest.mark.parametrize("precision", FORMS)
@pytest.mark.parametrize(
    ("mutation", "expected"),
    [
        (None, None),
        (times("blocks.0.attn.qkv/MatMul_weight_scale", 1.02), "half a step"),
        (turned, "half a step"),
        (one_step, "half a step"),
        (other_axis, "by column"),
        (other_numbers, "not a constant of"),
        (other_activation, "zero point"),
        (zero_point, "zero point"),
        (times("blocks.0.mlp.fc2/MatMul_input_scale", -1), "positive scale"),
        (times("blocks.0.mlp.fc2/MatMul_input_scale", 1.02), "on the images"),
        (times("blocks.0.mlp.fc1/MatMul_input_scale", 0.98), "on the images"),
        (coarse, "coarser"),
        (not_quantised, "not quantised"),
        (renamed, "not there"),
        (times("blocks.1.norm2/LayerNormalization_smoothed_2", 1.01), "parameters"),
    ],
)
def test_every_mistake_is_found(mutation: Mutation | None, expected: str | None, precision: Precision) -> None:
    model, form = graph(precision), FORMS[precision]
    products, largest = products_of(model), ranges(model)
    factors = smooth(model, products, largest)
    smoothed = {name: found / factors.get(name, 1) for name, found in largest.items()}
    quantize_products(model, products, smoothed, form)
    if mutation is not None:
        mutation(model, form)
    problem = first_difference(products_of(graph(precision)), [], model, largest, factors, form)
    assert problem is None if expected is None else expected in str(problem)
