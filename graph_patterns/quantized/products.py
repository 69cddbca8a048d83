"""Quantise both factors of the blocks' products with weights, and continue in the type of the lowered graph.

A product `x w` becomes `DequantizeLinear(QuantizeLinear(x)) DequantizeLinear(w')`, with w' stored in int8 or fp8.
onnxruntime (int8 beside float32) and TensorRT make one kernel of it. Both factors are symmetric, with zero points
of 0, as TensorRT demands: x has one scale, w one for each of its columns.

What is quantised are the blocks' own layers. Matching and merging, attention's products (of two activations), the patch
embedding and whatever follows the blocks stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from tofu_export.graph_patterns.insert import initializer, insert
from tofu_export.graph_patterns.quantized.form import Floats, Form
from tofu_export.graph_patterns.quantized.pair import quantized_and_back

__all__ = ["activations_of", "is_in_block", "is_skipped", "products_of", "quantize_products", "smooth"]

FEW_CHANNELS = 16
"""Number of channels that 8-bit kernels multiply at once. Products over or to no more channels gain nothing: in CaiT
they mix attention's heads. NVIDIA's recipe leaves out fewer than 16."""

_IN_BLOCK = re.compile(r"blocks\w*\.\d+[./]")
_NORMS = frozenset({"LayerNormalization", "RMSNormalization"})
_LEAST = 1e-5
"""Lower bound of a channel's range, as a share of the tensor's largest value."""

_RESTS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16})
"""Types of graphs whose products can be quantised."""


def products_of(model: ir.Model) -> list[ir.Node]:
    """Return the products to quantise: in a block, not in its reduction, of an activation and a weight [K, N].

    Requires: a lowered graph, whose names carry stages.
    """
    return [node for node in model.graph if _is_product(node)]


def is_in_block(node: ir.Node) -> bool:
    """True for a node of a block that is not part of its reduction."""
    name = node.name or ""
    return _IN_BLOCK.match(name) is not None and "/fuse/" not in name


def is_skipped(node: ir.Node, skip: Sequence[str]) -> bool:
    """True if a node of a block is in one of these: blocks by number from 0, modules by name.

    `11` is `blocks.11`, `mlp` and `mlp.fc2` are modules of any block.
    """
    words = re.split(r"[./]", node.name or "")[:-1]
    parts = [["blocks", name] if name.isdecimal() else name.split(".") for name in skip]
    return any(words[at : at + len(part)] == part for part in parts for at in range(len(words)))


def _is_product(node: ir.Node) -> bool:
    if node.op_type != "MatMul" or not is_in_block(node):
        return False
    left, right = node.inputs
    if left is None or left.const_value is not None or _rank_of_constant(right) != 2:
        return False
    return min(_sizes(right)) > FEW_CHANNELS


def activations_of(products: Sequence[ir.Node]) -> dict[str, int]:
    """Return the names of the activations that the products multiply, and the number of channels K of each."""
    return {_name(node.inputs[0]): _sizes(node.inputs[1])[0] for node in products}


def smooth(model: ir.Model, products: Sequence[ir.Node], largest: Mapping[str, Floats]) -> dict[str, Floats]:
    """Move the unevenness of a norm's output channels into the weights that follow, in place. No result changes.

    One scale for a tensor leaves few steps to its small channels, and a few channels of a norm in a vision transformer
    are tens of times larger than the others. So a norm's scale and bias are divided by a factor for each channel, and
    the rows of the weights multiplied by it: the root of the channel's largest value over that of its weights, which
    makes both equally uneven. Norms with other readers than these products are left unchanged.

    Args:
        model: the graph of the products.
        products: result of `products_of`.
        largest: by the name of each activation, the largest absolute value of every channel, float32 [K].

    Returns:
        By the name of each activation that was smoothed, the factors of its channels, float32 [K].

    Source: arXiv 2211.10438 (SmoothQuant), equation 4 with a migration strength of 0.5.
    """
    factors: dict[str, Floats] = {}
    for name, readers in _by_activation(products).items():
        value = readers[0].inputs[0]
        assert value is not None  # a product has two factors
        norm = value.producer()
        uses = {node for node, _ in value.uses()}
        if norm is None or norm.op_type not in _NORMS or value.is_graph_output() or uses != set(readers):
            continue
        parameters = [(index, each) for index, each in enumerate(norm.inputs) if index and each is not None]
        if any(each.const_value is None for _, each in parameters):
            continue
        rows = np.max([np.abs(_constant(node.inputs[1])).max(axis=1) for node in readers], axis=0)
        factor = np.sqrt(_floored(largest[name]) / _floored(rows))
        for index, each in parameters:
            _give(model, norm, index, f"{norm.name}_smoothed_{index}", _constant(each) / factor)
        for node in readers:
            _give(model, node, 1, f"{node.name}_smoothed", _constant(node.inputs[1]) * factor[:, None])
        factors[name] = factor
    return factors


def quantize_products(model: ir.Model, products: Sequence[ir.Node], largest: Mapping[str, Floats], form: Form) -> None:
    """Quantise both factors of each product in int8 or fp8, in place; a shared one is quantised once.

    Scales have the type of the graph. Beside float32 weights have no zero points, which stand for 0: onnxruntime turns
    weights into uint8 if its option `session.x64quantprecision` asks for exact products, and fails where two weights
    have one tensor of zero points, as tools leave behind that merge equal initializers. Where the batch is fixed, or
    several products read one activation, they have them all the same: there onnxruntime 1.31 leaves products unfused,
    and gives such a weight a zero point of the wrong shape, with which the file does not run. Beside float16, where
    onnxruntime fuses nothing, they always do: TensorRT's converters are written for them.

    Args:
        model: the graph of the products.
        products: result of `products_of`.
        largest: by the name of each activation, the largest absolute value of every channel, float32 [K].
        form: the type of the quantised numbers.
    """
    for name, readers in _by_activation(products).items():
        first = readers[0]
        value = first.inputs[0]
        assert value is not None  # a product has two factors
        rest = _type_of(first.inputs[1])
        scale = form.scales(largest[name].max(), rest.numpy())
        wide = quantized_and_back(model, first, value, f"{first.name}_input", scale, form)
        for node in readers:
            stage = f"{node.name}_weight"
            weight = _constant(node.inputs[1])
            scales = form.scales(np.abs(weight).max(axis=0), rest.numpy())
            factors = [
                initializer(model, f"{stage}_{form.name}", form.quantized(weight, scales)),
                initializer(model, f"{stage}_scale", scales),
            ]
            if rest is not ir.DataType.FLOAT or _has_fixed_batch(model) or len(readers) > 1:
                zeros = np.zeros(scales.shape, form.numbers.numpy())
                factors.append(initializer(model, f"{stage}_zero", zeros))
            dequantized = insert(model, node, "DequantizeLinear", stage, factors, "dequantized", rest, axis=1)
            node.replace_input_with(0, wide)
            node.replace_input_with(1, dequantized)


def _by_activation(products: Sequence[ir.Node]) -> dict[str, list[ir.Node]]:
    """Group the products by the activation that they read, in graph order."""
    readers: dict[str, list[ir.Node]] = {}
    for node in products:
        readers.setdefault(_name(node.inputs[0]), []).append(node)
    return readers


def _floored(largest: Floats) -> Floats:
    """Raise small channel ranges to a lower bound, so that factors stay moderate."""
    return np.maximum(largest, max(_LEAST * float(largest.max()), float(np.finfo(np.float32).tiny)))


def _rank_of_constant(value: ir.Value | None) -> int | None:
    if value is None or value.const_value is None or value.const_value.dtype not in _RESTS:
        return None
    return len(value.const_value.shape)


def _type_of(constant: ir.Value | None) -> ir.DataType:
    assert constant is not None and constant.const_value is not None  # _is_product
    return constant.const_value.dtype


def _constant(value: ir.Value | None) -> Floats:
    assert value is not None and value.const_value is not None  # _is_product
    array: Floats = value.const_value.numpy().astype(np.float32)
    return array


def _sizes(weight: ir.Value | None) -> tuple[int, ...]:
    """Return rows K and columns N of a weight, without reading it."""
    assert weight is not None and weight.const_value is not None  # _is_product
    return tuple(map(int, weight.const_value.shape))  # type: ignore[arg-type]  # a constant has no symbolic sizes


def _name(value: ir.Value | None) -> str:
    assert value is not None and value.name is not None  # every value of a lowered graph has a name
    return value.name


def _give(model: ir.Model, node: ir.Node, index: int, name: str, array: Floats) -> None:
    """Give a node its own constant, in the type of the original, which other nodes may share."""
    array = array.astype(_type_of(node.inputs[index]).numpy())
    node.replace_input_with(index, initializer(model, name, array))


def _has_fixed_batch(model: ir.Model) -> bool:
    shape = model.graph.inputs[0].shape
    return shape is not None and isinstance(shape[0], int)
