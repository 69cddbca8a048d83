"""Check a quantised graph against the numbers that it was made from, constant by constant.

Rounding makes an int8 model differ from the float32 one by a percent, and a mistake in a few scales by no more, so the
outputs alone do not show it. The constants do: a stored weight is the original one to half a step. The original numbers
come from the graph that was quantised (`first_difference`), or from the model itself (`verify.quantized_weights`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from tofu_export.graph_patterns.attention.find import Attention
from tofu_export.graph_patterns.quantized.attention import LARGEST_WEIGHT, factors_of
from tofu_export.graph_patterns.quantized.form import Floats, Form

__all__ = [
    "difference_of_factor",
    "difference_of_norm",
    "difference_of_product",
    "first_difference",
    "is_activation",
    "range_name",
    "scaled_steps",
]

_ROUNDING, _HALF_ROUNDING = 1e-5, 2e-3
"""Relative error of intermediate arithmetic in float32, and with scales and norms in float16."""


def first_difference(
    products: Sequence[ir.Node],
    attentions: Sequence[Attention],
    written: ir.Model,
    largest: Mapping[str, Floats],
    factors: Mapping[str, Floats],
    form: Form,
) -> str | None:
    """Return the first error in the quantised graph `written`, None if there is none.

    Args:
        products: quantised products of the graph in float32 or float16.
        attentions: quantised attentions of that graph.
        written: the quantised graph made of it; names of nodes are the same.
        largest: by the name of each activation, the largest absolute value of every channel, float32 [K].
        factors: result of `smooth`.
        form: the type of the quantised numbers.
    """
    nodes = {node.name: node for node in written.graph}
    for product in products:
        activation, weight = product.inputs
        assert activation is not None and activation.name is not None  # a product has two factors
        constant = _array(weight)
        assert constant is not None  # products_of
        constant = constant.astype(np.float32)
        factor = factors.get(activation.name)
        reach = float((largest[activation.name] / (1 if factor is None else factor)).max())
        if problem := difference_of_product(nodes.get(product.name), constant, factor, reach, form):
            return f"{product.name}: {problem}"
        norm = activation.producer()
        if factor is not None:
            assert norm is not None  # a smoothed activation is the output of a norm
            found = nodes.get(norm.name)
            if found is None or found.op_type != norm.op_type:
                return f"{norm.name} is not there"
            if problem := difference_of_norm(found, [_array(value) for value in norm.inputs[1:]], factor):
                return f"{norm.name}: {problem}"
    for attention in attentions:
        for node, index, value in factors_of(attention):
            seen = largest.get(str(value.name))
            reach = LARGEST_WEIGHT if seen is None else float(seen.max())
            if problem := difference_of_factor(nodes.get(node.name), index, reach, form):
                return f"{node.name}: {problem}"
    return None


def difference_of_factor(node: ir.Node | None, index: int, reach: float | None, form: Form) -> str | None:
    """Return the error in a quantised activation that a product reads, None if there is none.

    Args:
        node: the product; None if there is no such node.
        index: index of the input.
        reach: the largest value there; None if not known.
        form: the type of the quantised numbers.
    """
    if node is None or node.op_type != "MatMul":
        return "it is not there"
    return _activation(node, reach, form, index)


def range_name(node: ir.Node, index: int) -> str:
    """Return the name in the metadata of the range of one input of a product of two activations."""
    return f"{node.name}:{index}"


def is_activation(value: ir.Value | None) -> bool:
    """True for the result of a QuantizeLinear and a DequantizeLinear."""
    wide = _producer(value, "DequantizeLinear")
    return wide is not None and _producer(wide.inputs[0], "QuantizeLinear") is not None


def difference_of_product(
    node: ir.Node | None, weight: Floats, factor: Floats | None, reach: float | None, form: Form
) -> str | None:
    """Return the error in a quantised product, None if there is none.

    Args:
        node: the product; None if there is no such node.
        weight: its original weight, float32 [K, N].
        factor: smoothing factors of the channels of its input, float32 [K], if smoothed.
        reach: the largest value of its input; None if not known.
        form: the type of the quantised numbers.
    """
    if problem := difference_of_factor(node, 0, reach, form):
        return problem
    assert node is not None  # else there was a problem
    return _weight(node, weight, factor, form)


def difference_of_norm(norm: ir.Node, before: Sequence[Floats | None], factor: Floats) -> str | None:
    """Return the error in a norm whose scale and bias were divided by channel factors, None if there is none.

    Args:
        norm: the node as it is now.
        before: its original scale and bias, [K].
        factor: factors of its channels, float32 [K].
    """
    now = [_array(value) for value in norm.inputs[1:]]
    fits = len(now) == len(before) and all(
        (left is None) == (right is None) and (left is None or right is None or _is_divided(left, right, factor))
        for left, right in zip(now, before, strict=True)
    )
    return None if fits else "its parameters are not those of the model over the factors"


def scaled_steps(node: ir.Node) -> Floats | None:
    """Return the stored second factor of a product, numbers times scales, float32 [K, N]; None without one."""
    wide = _producer(node.inputs[1], "DequantizeLinear")
    steps, scales = (None, None) if wide is None else (_array(value) for value in wide.inputs[:2])
    if steps is None or scales is None or steps.ndim != 2 or scales.shape != steps.shape[1:]:
        return None
    product: Floats = steps.astype(np.float32) * scales.astype(np.float32)
    return product


def _is_divided(now: NDArray[Any], before: NDArray[Any], factor: Floats) -> bool:
    """True if `now` is `before` over `factor`, within the precision of its type."""
    wide, right = now.astype(np.float32) * factor, before.astype(np.float32)
    return bool((np.abs(wide - right) <= _rounding(now) * np.abs(right) + _least(now) * factor).all())


def _activation(node: ir.Node, reach: float | None, form: Form, index: int) -> str | None:
    """Return the error in a factor of a product, whose largest value is `reach`, if known."""
    wide = _producer(node.inputs[index], "DequantizeLinear")
    narrow = None if wide is None else _producer(wide.inputs[0], "QuantizeLinear")
    if wide is None or narrow is None:
        return "its input is not quantised"
    scale, zero = _array(narrow.inputs[1]), _array(narrow.inputs[2])
    if scale is None or scale.shape != () or not scale > 0 or list(narrow.inputs[1:]) != list(wide.inputs[1:]):
        return "its input is not quantised and dequantised with one positive scale"
    reached = float(scale) * form.largest
    if reach is not None and not np.isclose(reached, _least_reach(reach, scale, form), rtol=_rounding(scale)):
        return f"its input reaches {reached:.4g} in {form.name}, but {reach:.4g} on the images"
    if zero is None or zero.dtype != form.numbers.numpy() or zero.astype(np.float32).any():
        return f"the zero point of its input is not a 0 of {form.numbers.name}"
    return None


def _weight(node: ir.Node, weight: Floats, factor: Floats | None, form: Form) -> str | None:
    """Return the error in the second factor of a product, whose original is `weight`."""
    wide = _producer(node.inputs[1], "DequantizeLinear")
    if wide is None or wide.attributes.get_int("axis", 1) != 1:
        return "its weight is not dequantised by column"
    steps, scales, *zeros = (_array(value) for value in wide.inputs)
    if steps is None or scales is None or steps.dtype != form.numbers.numpy() or steps.shape != weight.shape:
        return f"its weight is not a constant of {form.numbers.name} in the shape of the original one"
    if scales.shape != weight.shape[1:] or any(
        zero is None or zero.shape != scales.shape or zero.astype(np.float32).any() for zero in zeros
    ):
        return "its weight does not have one scale for each column and zero points of 0, if any"
    numbers, sizes, rounding = steps.astype(np.float32), scales.astype(np.float32), _rounding(scales)
    if np.abs(numbers).max() > form.largest:
        return f"its weight goes beyond {form.largest:g} steps"
    weight = weight if factor is None else weight * factor[:, None]
    allowed = form.half_steps(numbers) * sizes + rounding * np.abs(weight) + _least(scales)
    if (np.abs(numbers * sizes - weight) > allowed).any():
        return "its weight is not the original one to half a step"
    reach = _least_reach(np.abs(weight).max(axis=0), scales, form)
    if not np.allclose(sizes * form.largest, reach, rtol=rounding, atol=0):
        return "its steps are coarser than its columns need"
    return None


def _rounding(constant: NDArray[Any]) -> float:
    return _HALF_ROUNDING if constant.dtype == np.float16 else _ROUNDING


def _least(constant: NDArray[Any]) -> float:
    """Return the distance between neighbouring numbers at 0, where rounding is not relative."""
    return float(np.finfo(constant.dtype).smallest_subnormal)


def _least_reach(reach: Any, scales: NDArray[Any], form: Form) -> Any:
    """Return the value that the largest number must represent: `reach`, or what the smallest scale makes of it."""
    return np.maximum(reach, float(np.finfo(scales.dtype).tiny) * form.largest)


def _producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    producer = None if value is None else value.producer()
    return producer if producer is not None and producer.op_type == op_type else None


def _array(value: ir.Value | None) -> NDArray[Any] | None:
    return None if value is None or value.const_value is None else value.const_value.numpy()
