"""Attention in FP8: in the form that TensorRT fuses, and held to what it was made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from tests import tiny
from tests.graph_patterns.quantized_files import constant, producer
from tofu_export.graph_patterns.attention.find import Attention, attentions_of
from tofu_export.graph_patterns.quantized.attention import factors_of, measured, quantize_attention
from tofu_export.graph_patterns.quantized.check import first_difference
from tofu_export.graph_patterns.quantized.form import FP8
from tofu_export.options import Precision, Reduction

SOME = Reduction(r=(3, 2, 4), pattern="PAM")


def graph() -> ir.Model:
    return tiny.lowered("cls", SOME, precision=Precision.FP16, opset=19)


def reaches(attentions: list[Attention]) -> dict[str, float]:
    """Made-up ranges: no two are the same."""
    return {name: 2.0 + 0.25 * index for index, name in enumerate(measured(attentions))}


@pytest.fixture
def quantized() -> tuple[ir.Model, list[Attention]]:
    model = graph()
    attentions = attentions_of(model)
    quantize_attention(model, attentions, reaches(attentions), FP8)
    return model, attentions


def test_every_factor_is_quantised_right_in_front_of_its_product(quantized: tuple[ir.Model, list[Attention]]) -> None:
    model, attentions = quantized
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    source = attentions_of(graph())
    known = reaches(source)
    assert len(known) == 3 * tiny.DEPTH
    for before, after in zip(source, attentions, strict=True):
        for (node, index, value), now in zip(factors_of(before), [each for *_, each in factors_of(after)], strict=True):
            wide = producer(now)
            narrow = producer(wide.inputs[0])
            assert (wide.op_type, narrow.op_type) == ("DequantizeLinear", "QuantizeLinear")
            assert narrow.inputs[0].name == value.name  # type: ignore[union-attr]
            scale = constant(wide.inputs[1])
            assert scale.dtype == np.float16
            reach = 1.0 if value is before.softmax.outputs[0] else known[str(value.name)]
            assert reach / 448 <= float(scale) <= reach / 448 * 1.001, (node.name, index)
            assert wide.inputs[2].dtype is ir.DataType.FLOAT8E4M3FN  # type: ignore[union-attr]


def test_scale_and_transposition_come_before(quantized: tuple[ir.Model, list[Attention]]) -> None:
    for attention in quantized[1]:
        queries, keys = (producer(producer(producer(value).inputs[0]).inputs[0]) for value in attention.scores.inputs)
        assert (queries.op_type, keys.op_type) == ("Mul", "Transpose")


Mutation = Callable[[ir.Model, Attention], object]


def times(index: int, product: str, factor: float) -> Mutation:
    def mutate(model: ir.Model, attention: Attention) -> None:
        node = getattr(attention, product)
        value = producer(node.inputs[index]).inputs[1]
        assert value is not None
        array: NDArray[Any] = constant(value) * np.float16(factor)
        value.const_value = ir.tensor(array.astype(np.float16), name=value.name)

    return mutate


def bare_values(model: ir.Model, attention: Attention) -> None:
    value = attention.attended.inputs[1]
    attention.attended.replace_input_with(1, producer(producer(value).inputs[0]).inputs[0])


def gone(model: ir.Model, attention: Attention) -> None:
    attention.scores.name = "other"


@pytest.mark.parametrize(
    ("mutation", "expected"),
    [
        (None, None),
        (times(0, "scores", 1.02), "on the images"),
        (times(1, "scores", 0.98), "on the images"),
        (times(0, "attended", 2), "reaches 2"),
        (times(1, "attended", -1), "positive scale"),
        (bare_values, "not quantised"),
        (gone, "not there"),
    ],
)
def test_mistakes_are_found(
    mutation: Mutation | None, expected: str | None, quantized: tuple[ir.Model, list[Attention]]
) -> None:
    model, attentions = quantized
    if mutation is not None:
        mutation(model, attentions[1])
    source = attentions_of(graph())
    largest = {name: np.array([reach], np.float32) for name, reach in reaches(source).items()}
    problem = first_difference([], source, model, largest, {}, FP8)
    assert problem is None if expected is None else expected in str(problem)
