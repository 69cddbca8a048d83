"""Hold an int8 graph against the float32 graph that it was made of, constant by constant.

Rounding makes an int8 model differ from the float32 one by a percent, and a mistake in a few scales by no more, so the
outputs alone do not show it. The constants do: a stored weight is the float32 one to half a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from tofu_export.graph_patterns.int8.products import STEPS, products_of

__all__ = ["first_difference"]

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
        activation = product.inputs[0]
        assert activation is not None and activation.name is not None  # a product has two factors
        factor = factors.get(activation.name)
        node = nodes.get(product.name)
        if node is None or node.op_type != "MatMul":
            return f"{product.name} is not there"
        reach = float((largest[activation.name] / (1 if factor is None else factor)).max())
        if problem := _activation(node, reach) or _weight(node, product, factor):
            return f"{product.name}: {problem}"
        norm = activation.producer()
        if factor is not None:
            assert norm is not None  # what was smoothed comes out of a norm
            if not _divided(nodes.get(norm.name), norm, factor):
                return f"{norm.name}: its parameters are not those of the float32 file over the factors"
    return None


def _activation(node: ir.Node, reach: float) -> str | None:
    """What is wrong with the first factor of a product, whose largest value is `reach`."""
    wide = _producer(node.inputs[0], "DequantizeLinear")
    narrow = None if wide is None else _producer(wide.inputs[0], "QuantizeLinear")
    if wide is None or narrow is None:
        return "its input is not quantised"
    scale, zero = _array(narrow.inputs[1]), _array(narrow.inputs[2])
    if scale is None or scale.shape != () or not scale > 0 or list(narrow.inputs[1:]) != list(wide.inputs[1:]):
        return "its input is not quantised and dequantised with one positive scale"
    if not np.isclose(scale * STEPS, reach, rtol=_ROUNDING, atol=_LEAST):
        return f"its input reaches {scale * STEPS:.4g} in int8, but {reach:.4g} on the images"
    if zero is None or zero.dtype != np.int8 or zero.any():
        return "the zero point of its input is not an int8 0"
    return None


def _weight(node: ir.Node, product: ir.Node, factor: Floats | None) -> str | None:
    """What is wrong with the second factor of a product."""
    wide = _producer(node.inputs[1], "DequantizeLinear")
    if wide is None or wide.attributes.get_int("axis", 1) != 1:
        return "its weight is not dequantised by column"
    steps, scales, *zeros = (_array(value) for value in wide.inputs)
    weight = _array(product.inputs[1])
    if weight is None or steps is None or scales is None or steps.dtype != np.int8 or steps.shape != weight.shape:
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


def _divided(norm: ir.Node | None, before: ir.Node, factor: Floats) -> bool:
    """Whether the parameters of a norm are those that it had, over the factors."""
    if norm is None or norm.op_type != before.op_type or len(norm.inputs) != len(before.inputs):
        return False
    for now, once in zip(norm.inputs[1:], before.inputs[1:], strict=True):
        left, right = _array(now), _array(once)
        if (left is None) != (right is None):
            return False
        if left is not None and right is not None and not np.allclose(left * factor, right, rtol=_ROUNDING, atol=0):
            return False
    return True


def _producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    producer = None if value is None else value.producer()
    return producer if producer is not None and producer.op_type == op_type else None


def _array(value: ir.Value | None) -> NDArray[Any] | None:
    return None if value is None or value.const_value is None else value.const_value.numpy()
