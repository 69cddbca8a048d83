"""Write the products of a lowered float32 graph in int8: quantise both factors, multiply, go on in float32.

A product `x w` becomes `DequantizeLinear(QuantizeLinear(x)) DequantizeLinear(w')`, with w' stored in int8. onnxruntime
and TensorRT turn that into one int8 kernel. Both factors are symmetric, with zero points of 0 and values from -127 to
127, as TensorRT demands: x has one scale, w one for each of its columns.

What goes in int8 are the blocks' own layers. Matching and merging, attention's products (of two activations), the patch
embedding and whatever follows the blocks stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

__all__ = ["activations_of", "products_of", "quantize_products", "smooth"]

STEPS = 127
"""Largest value of an int8 number here; -128 would make the range lopsided."""

FEW_CHANNELS = 16
"""What int8 kernels multiply at once. Products over no more gain nothing: those of CaiT mix the heads of attention."""

_IN_BLOCK = re.compile(r"blocks\w*\.\d+[./]")
_NORMS = frozenset({"LayerNormalization", "RMSNormalization"})
_LEAST = 1e-5
"""Share of a tensor's largest value that the range of a channel is never taken to be below."""

Floats = NDArray[np.float32]


def products_of(model: ir.Model) -> list[ir.Node]:
    """The products that go in int8: in a block, but not in its reduction, of an activation and a constant [K, N].

    Requires: a lowered graph, whose names carry stages.
    """
    return [node for node in model.graph if _is_product(node)]


def _is_product(node: ir.Node) -> bool:
    name = node.name or ""
    if node.op_type != "MatMul" or not _IN_BLOCK.match(name) or "/fuse/" in name:
        return False
    left, right = node.inputs
    if left is None or left.const_value is not None or _rank_of_constant(right) != 2:
        return False
    return _channels(right) > FEW_CHANNELS


def activations_of(products: Sequence[ir.Node]) -> dict[str, int]:
    """Names of what the products multiply, and the number K of channels of each."""
    return {_name(node.inputs[0]): _channels(node.inputs[1]) for node in products}


def smooth(model: ir.Model, products: Sequence[ir.Node], largest: Mapping[str, Floats]) -> dict[str, Floats]:
    """Move what makes channels of a norm's output uneven into the weights that follow, in place. No number changes.

    One scale for a tensor leaves few steps to its small channels, and a few channels of a norm in a vision transformer
    are tens of times larger than the others. So a norm's scale and bias are divided by a factor for each channel, and
    the rows of the weights multiplied by it: the root of the channel's largest value over that of its weights, which
    makes both equally uneven. Norms that anything but these products reads are left as they are.

    Args:
        model: the graph of the products.
        products: as from `products_of`.
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


def quantize_products(model: ir.Model, products: Sequence[ir.Node], largest: Mapping[str, Floats]) -> None:
    """Put both factors of each product in int8, in place; one that several products read is quantised once.

    Weights have no zero points, which stand for 0: onnxruntime turns weights into uint8 if its option
    `session.x64quantprecision` asks for exact products, and fails where two weights have one tensor of zero points, as
    tools leave behind that merge equal initializers. Where the batch is fixed, or several products read one activation,
    they have them all the same: there onnxruntime 1.31 leaves products unfused, and gives such a weight a zero point of
    the wrong shape, with which the file does not run.

    Args:
        model: the graph of the products.
        products: as from `products_of`.
        largest: by the name of each activation, the largest absolute value of every channel, float32 [K].
    """
    zero = _initializer(model, "int8_zero", np.zeros((), dtype=np.int8))
    for name, readers in _by_activation(products).items():
        first = readers[0]
        value = first.inputs[0]
        stage = f"{first.name}_input"
        scale = _initializer(model, f"{stage}_scale", np.asarray(_scales(largest[name].max())))
        narrow = _insert(model, first, "QuantizeLinear", stage, (value, scale, zero), "quantized")
        wide = _insert(model, first, "DequantizeLinear", stage, (narrow, scale, zero), "dequantized")
        for node in readers:
            stage = f"{node.name}_weight"
            weight = _constant(node.inputs[1])
            scales = _scales(np.abs(weight).max(axis=0))
            steps = np.clip(np.rint(weight / scales), -STEPS, STEPS).astype(np.int8)
            factors = [
                _initializer(model, f"{stage}_int8", steps),
                _initializer(model, f"{stage}_scale", scales),
            ]
            if _has_fixed_batch(model) or len(readers) > 1:
                factors.append(_initializer(model, f"{stage}_zero", np.zeros(scales.shape, dtype=np.int8)))
            node.replace_input_with(0, wide)
            node.replace_input_with(1, _insert(model, node, "DequantizeLinear", stage, factors, "dequantized", axis=1))


def _by_activation(products: Sequence[ir.Node]) -> dict[str, list[ir.Node]]:
    """The products that read each activation, in the order of the graph."""
    readers: dict[str, list[ir.Node]] = {}
    for node in products:
        readers.setdefault(_name(node.inputs[0]), []).append(node)
    return readers


def _scales(largest: Floats) -> Floats:
    """The value of one step; the smallest normal number where everything is 0."""
    scales: Floats = np.maximum(largest / np.float32(STEPS), np.finfo(np.float32).tiny).astype(np.float32)
    return scales


def _floored(largest: Floats) -> Floats:
    """Ranges by channel, none of them so small that a factor would get out of hand."""
    return np.maximum(largest, max(_LEAST * float(largest.max()), float(np.finfo(np.float32).tiny)))


def _rank_of_constant(value: ir.Value | None) -> int | None:
    if value is None or value.const_value is None or value.const_value.dtype != ir.DataType.FLOAT:
        return None
    return len(value.const_value.shape)


def _constant(value: ir.Value | None) -> Floats:
    assert value is not None and value.const_value is not None  # _is_product
    array: Floats = value.const_value.numpy()
    return array


def _channels(weight: ir.Value | None) -> int:
    """Rows of a weight, without reading it."""
    assert weight is not None and weight.const_value is not None  # _is_product
    return int(weight.const_value.shape[0])  # type: ignore[arg-type]  # a constant has no symbolic sizes


def _name(value: ir.Value | None) -> str:
    assert value is not None and value.name is not None  # every value of a lowered graph has a name
    return value.name


def _initializer(model: ir.Model, name: str, array: NDArray[np.generic]) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    model.graph.initializers[name] = value
    return value


def _give(model: ir.Model, node: ir.Node, index: int, name: str, array: Floats) -> None:
    """Give a node a constant of its own: others may share the one that it has."""
    node.replace_input_with(index, _initializer(model, name, array.astype(np.float32)))


def _has_fixed_batch(model: ir.Model) -> bool:
    shape = model.graph.inputs[0].shape
    return shape is not None and isinstance(shape[0], int)


def _insert(
    model: ir.Model,
    before: ir.Node,
    op_type: str,
    stage: str,
    inputs: Sequence[ir.Value | None],
    output: str,
    **attributes: int,
) -> ir.Value:
    """Add a node in front of another one, and return its output."""
    narrow = op_type == "QuantizeLinear"
    source = inputs[0]
    value = ir.Value(
        name=f"{stage}_{output}",
        shape=None if source is None else source.shape,
        type=ir.TensorType(ir.DataType.INT8 if narrow else ir.DataType.FLOAT),
    )
    node = ir.Node(
        "",
        op_type,
        inputs,
        [ir.AttrInt64(name, number) for name, number in attributes.items()],
        outputs=[value],
        name=f"{stage}_{op_type}",
    )
    model.graph.insert_before(before, node)
    return value
