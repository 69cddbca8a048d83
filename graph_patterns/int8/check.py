"""Hold an int8 graph against the float32 numbers that it was made of, constant by constant.

Rounding makes an int8 model differ from the float32 one by a percent, and a mistake in a few scales by no more, so the
outputs alone do not show it. The constants do: a stored weight is the float32 one to half a step. The float32 numbers
come from the graph that was quantised (`first_difference`), or from the model itself (`verify.int8_weights`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from tofu_export.graph_patterns.int8.products import STEPS, products_of

__all__ = ["difference_of_norm", "difference_of_product", "first_difference", "scaled_steps"]

_ROUNDING = 1e-5
"""Relative error that float32 arithmetic on the way adds."""

_LEAST = 1e-30
"""Ranges below this count as 0."""

Floats = NDArray[np.float32]


def first_difference(
    source: ir.Model, written: ir.Model, largest: Mapping[str, Floats], factors: Mapping[str, Floats]
) -> str | None:
    """What is wrong first in the int8 graph `written`, None if nothing is.

    Args:
        source: the float32 graph.
        written: the int8 graph made of it; names of nodes are the same.
        largest: by the name of each activation of `source`, the largest absolute value of every channel, float32 [K].
        factors: as from `int8.smooth`.
    """
    nodes = {node.name: node for node in written.graph}
    for product in products_of(source):
        activation, weight = product.inputs
        assert activation is not None and activation.name is not None  # a product has two factors
        constant = _array(weight)
        assert constant is not None  # products_of
        factor = factors.get(activation.name)
        reach = float((largest[activation.name] / (1 if factor is None else factor)).max())
        if problem := difference_of_product(nodes.get(product.name), constant, factor, reach):
            return f"{product.name}: {problem}"
        norm = activation.producer()
        if factor is not None:
            assert norm is not None  # what was smoothed comes out of a norm
            found = nodes.get(norm.name)
            if found is None or found.op_type != norm.op_type:
                return f"{norm.name} is not there"
            if problem := difference_of_norm(found, [_array(value) for value in norm.inputs[1:]], factor):
                return f"{norm.name}: {problem}"
    return None


def difference_of_product(
    node: ir.Node | None, weight: Floats, factor: Floats | None, reach: float | None
) -> str | None:
    """What is wrong with a product in int8, None if nothing is.

    Args:
        node: the product; None where there is no such node.
        weight: its float32 weight [K, N].
        factor: of the channels of its input, float32 [K], where they were smoothed.
        reach: the largest value of its input; None where that is not known.
    """
    if node is None or node.op_type != "MatMul":
        return "it is not there"
    return _activation(node, reach) or _weight(node, weight, factor)


def difference_of_norm(norm: ir.Node, before: Sequence[Floats | None], factor: Floats) -> str | None:
    """What is wrong with a norm whose scale and bias were divided by the factors of its channels, None if nothing is.

    Args:
        norm: the node as it is now.
        before: its scale and bias, float32 [K], as they were.
        factor: of its channels, float32 [K].
    """
    now = [_array(value) for value in norm.inputs[1:]]
    fits = len(now) == len(before) and all(
        (left is None) == (right is None)
        and (left is None or right is None or np.allclose(left * factor, right, rtol=_ROUNDING, atol=0))
        for left, right in zip(now, before, strict=True)
    )
    return None if fits else "its parameters are not those of the float32 model over the factors"


def scaled_steps(node: ir.Node) -> Floats | None:
    """The second factor of a product as it is stored in int8, steps times scales, float32 [K, N]; None without one."""
    wide = _producer(node.inputs[1], "DequantizeLinear")
    steps, scales = (None, None) if wide is None else (_array(value) for value in wide.inputs[:2])
    if steps is None or scales is None or steps.ndim != 2 or scales.shape != steps.shape[1:]:
        return None
    product: Floats = (steps * scales).astype(np.float32)
    return product


def _activation(node: ir.Node, reach: float | None) -> str | None:
    """What is wrong with the first factor of a product, whose largest value is `reach`, if that is known."""
    wide = _producer(node.inputs[0], "DequantizeLinear")
    narrow = None if wide is None else _producer(wide.inputs[0], "QuantizeLinear")
    if wide is None or narrow is None:
        return "its input is not quantised"
    scale, zero = _array(narrow.inputs[1]), _array(narrow.inputs[2])
    if scale is None or scale.shape != () or not scale > 0 or list(narrow.inputs[1:]) != list(wide.inputs[1:]):
        return "its input is not quantised and dequantised with one positive scale"
    if reach is not None and not np.isclose(scale * STEPS, reach, rtol=_ROUNDING, atol=_LEAST):
        return f"its input reaches {scale * STEPS:.4g} in int8, but {reach:.4g} on the images"
    if zero is None or zero.dtype != np.int8 or zero.any():
        return "the zero point of its input is not an int8 0"
    return None


def _weight(node: ir.Node, weight: Floats, factor: Floats | None) -> str | None:
    """What is wrong with the second factor of a product, which was `weight`."""
    wide = _producer(node.inputs[1], "DequantizeLinear")
    if wide is None or wide.attributes.get_int("axis", 1) != 1:
        return "its weight is not dequantised by column"
    steps, scales, *zeros = (_array(value) for value in wide.inputs)
    if steps is None or scales is None or steps.dtype != np.int8 or steps.shape != weight.shape:
        return "its weight is not a constant of int8 in the shape of the float32 one"
    if scales.shape != weight.shape[1:] or any(
        zero is None or zero.shape != scales.shape or zero.any() for zero in zeros
    ):
        return "its weight does not have one scale for each column and zero points of 0, if any"
    if np.abs(steps.astype(np.int16)).max() > STEPS:
        return f"its weight goes beyond {STEPS} steps"
    weight = weight if factor is None else weight * factor[:, None]
    if (np.abs(steps * scales - weight) > (0.5 + _ROUNDING * STEPS) * scales).any():
        return "its weight is not the float32 one to half a step"
    if not np.allclose(scales * STEPS, np.abs(weight).max(axis=0), rtol=_ROUNDING, atol=_LEAST):
        return "its steps are coarser than its columns need"
    return None


def _producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    producer = None if value is None else value.producer()
    return producer if producer is not None and producer.op_type == op_type else None


def _array(value: ir.Value | None) -> NDArray[Any] | None:
    return None if value is None or value.const_value is None else value.const_value.numpy()
