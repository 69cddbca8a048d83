"""Inspect the network of TensorRT's parser: layers, types, arithmetic, attention. Runs in the build worker."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

from tofu_export.engines.describing.structure import NodeCost, shares
from tofu_export.errors import PrecisionMismatchError
from tofu_export.options import Precision

__all__ = ["allow_decomposition", "check_precision", "dominant_precision", "layer_table", "mac_table", "node_costs"]

COMPUTE_LAYERS = ("MATRIX_MULTIPLY", "CONVOLUTION", "DECONVOLUTION", "EINSUM", "ATTENTION_OUTPUT")
"""Layers that carry the arithmetic of a network; their output type is the precision of the network."""

QUANTIZED: Mapping[Precision, str] = {Precision.INT8: "int8", Precision.INT8_FP16: "int8", Precision.FP8: "fp8"}
"""Type that the products of a quantised network multiply."""

_DTYPES = {"FLOAT": "fp32", "HALF": "fp16"}
_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1, "fp8": 1, "uint8": 1, "bool": 1, "int32": 4, "int64": 8}
_ONNX_NAME = re.compile(r"\[ONNX Layer: (.*?)\](?:\s|$|\[|\x1e|\x1f)")


def layer_table(network: Any) -> dict[str, dict[str, int]]:
    """Return for each layer type the number of layer outputs of each data type."""
    table: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for layer in _layers(network):
        for index in range(layer.num_outputs):
            output = layer.get_output(index)
            if output is not None:
                table[layer.type.name][_dtype(output)] += 1
    return {kind: dict(dtypes) for kind, dtypes in table.items()}


def node_costs(trt: ModuleType, network: Any) -> list[NodeCost]:
    """Return the cost of each ONNX node in the network, for a batch of one; an open axis counts as one.

    Layers without the name of a node, mostly arithmetic on shapes, count under the empty name.
    """
    constants = {}
    producers = {}
    for layer in _layers(network):
        output = layer.get_output(0) if layer.num_outputs else None
        if output is not None:
            producers[output.name] = layer
            if layer.type.name == "CONSTANT":
                constants[output.name] = _size(output)
    costs: dict[str, NodeCost] = {}
    for layer in _layers(network):
        if layer.type.name == "CONSTANT":
            continue
        match = _ONNX_NAME.search(str(getattr(layer, "metadata", "")))
        name = match[1] if match else ""
        cost = costs.get(name, NodeCost(name, 0, 0, "", 0, 0))
        outputs = [output for output in map(layer.get_output, range(layer.num_outputs)) if output is not None]
        macs, weights = _arithmetic(trt, layer, producers, constants)
        costs[name] = replace(
            cost,
            layers=cost.layers + 1,
            macs=cost.macs + macs,
            dtype=_computed_in(layer, producers) if macs else cost.dtype,
            weight_bytes=cost.weight_bytes + weights,
            output_bytes=cost.output_bytes + sum(map(_size, outputs)),
        )
    return list(costs.values())


def mac_table(costs: list[NodeCost]) -> dict[str, int]:
    """Return multiply-accumulates by type: that of the result, or int8 or fp8 if both factors were dequantised."""
    table: Counter[str] = Counter()
    for cost in costs:
        if cost.macs:
            table[cost.dtype] += cost.macs
    return dict(table.most_common())


def dominant_precision(layers: Mapping[str, Mapping[str, int]], macs: Mapping[str, int]) -> Precision:
    """Return the precision of a network without a declared one: the type of most of its arithmetic."""
    if quantized := _quantized(layers):
        return quantized[0]
    known = [name for name in macs if name in {precision.value for precision in Precision}]
    return Precision(max(known, key=lambda name: macs[name])) if known else Precision.FP32


def check_precision(
    layers: Mapping[str, Mapping[str, int]], precision: Precision, macs: Mapping[str, int], least_share: float
) -> None:
    """Refuse a network that does not compute in its stated precision.

    A reduced-precision file may keep FP32 islands, but at least a share of its multiply-accumulates is of its type; an
    FP32 file has no heavy layer of a shorter type. In a quantised network a product has floating-point inputs and
    outputs, and what makes it one are the layers that quantise them; no other file has those. At least one product has
    them around both of its factors.

    Args:
        layers: result of `layer_table`.
        precision: the stated precision.
        macs: result of `mac_table`.
        least_share: smallest share of the multiply-accumulates in the precision, for FP16 and BF16.

    Raises:
        PrecisionMismatchError: the network computes in another precision.
    """
    found: defaultdict[str, int] = defaultdict(int)
    if quantized := _quantized(layers):
        computed, tensors = quantized
        numbers = QUANTIZED[computed]
        if precision is not computed:
            raise PrecisionMismatchError(
                f"precision {precision.value} was asked for, but the file quantises {tensors} tensors to {numbers}: "
                f"ask for --precision {computed.value}"
            )
        if macs and not macs.get(numbers):
            raise PrecisionMismatchError(
                f"precision {computed.value} was asked for, and the file quantises {tensors} tensors, but no product "
                "has both of its factors quantised: each needs a QuantizeLinear and a DequantizeLinear, or "
                f"{numbers} weights, before it"
            )
        return
    for kind in COMPUTE_LAYERS:
        for dtype, count in layers.get(kind, {}).items():
            found[dtype] += count
    listed = ", ".join(f"{count} {dtype}" for dtype, count in found.items()) or "none at all"
    asked = precision.value
    if precision is Precision.FP32:
        shorter = [name for name in (Precision.FP16.value, Precision.BF16.value) if found.get(name)]
        if shorter:
            raise PrecisionMismatchError(
                f"precision {asked} was asked for, but the file's matrix and convolution layers compute in {listed}: "
                f"ask for --precision {shorter[0]}, or export the model in {asked}"
            )
    elif not found.get(asked):
        raise PrecisionMismatchError(
            f"precision {asked} was asked for, but no matrix or convolution layer of the file computes in it "
            f"(found: {listed}): TensorRT takes the types from the file, so export the model in {asked}"
        )
    elif macs and shares(macs).get(asked, 0.0) < least_share:
        parts = ", ".join(f"{share:.1%} {name}" for name, share in shares(macs).items())
        raise PrecisionMismatchError(
            f"precision {asked} was asked for, but only {shares(macs).get(asked, 0.0):.1%} of the multiply-accumulates "
            f"compute in it (found: {parts}), expected at least {least_share:.0%}: export more of the model in {asked}"
        )


def allow_decomposition(trt: ModuleType, network: Any) -> tuple[str, ...]:
    """Let attention layers run as several kernels if no fused kernel exists; return the names of the layers.

    Reason: TensorRT-RTX has no fused FP32 attention, nor one of head size 512, and its parser leaves `decomposable`
    unset, so that the build fails. Layers that have a fused kernel keep it (FP16: same engine bytes). Layers arrive as
    plain `ILayer`, hence the change of class. Seen with TensorRT-RTX 1.7.1; remove when the parser sets it.
    """
    wanted = trt.LayerType.__members__.get("ATTENTION_INPUT")
    if wanted is None:
        return ()
    names = []
    for layer in _layers(network):
        if layer.type == wanted:
            layer.__class__ = trt.IAttentionInputLayer
            layer.attention.decomposable = True
            names.append(str(layer.name))
    return tuple(names)


def _arithmetic(
    trt: ModuleType, layer: Any, producers: Mapping[str, Any], constants: Mapping[str, int]
) -> tuple[int, int]:
    """Return the multiply-accumulates of a layer, and bytes of the weights that they read; zero for other layers."""
    kind = layer.type.name
    if kind == "MATRIX_MULTIPLY":
        left, output = layer.get_input(0), layer.get_output(0)
        layer.__class__ = trt.IMatrixMultiplyLayer
        across = layer.op0 == trt.MatrixOperation.TRANSPOSE
        inner = _sizes(left)[-2 if across and len(left.shape) > 1 else -1]
        weights = sum(_constant_bytes(layer.get_input(index), producers, constants) for index in (0, 1))
        return math.prod(_sizes(output)) * inner, weights
    if kind in ("CONVOLUTION", "DECONVOLUTION"):
        data, output = layer.get_input(0), layer.get_output(0)
        layer.__class__ = trt.IConvolutionLayer if kind == "CONVOLUTION" else trt.IDeconvolutionLayer
        channels_in, channels_out = _sizes(data)[1], _sizes(output)[1]
        kernel = math.prod(tuple(layer.kernel_size_nd)) * channels_in // layer.num_groups
        positions = output if kind == "CONVOLUTION" else data
        macs = math.prod(_sizes(positions)[2:]) * channels_out * kernel
        return macs, channels_out * kernel * _BYTES.get(_dtype(output), 0)
    if kind == "EINSUM":
        inputs = [_sizes(layer.get_input(index)) for index in range(layer.num_inputs)]
        layer.__class__ = trt.IEinsumLayer
        terms = str(layer.equation).replace(" ", "").partition("->")[0].split(",")
        sizes = {
            letter: size
            for term, shape in zip(terms, inputs, strict=False)
            for letter, size in zip(term, shape, strict=False)
        }
        return (math.prod(sizes.values()) if len(inputs) > 1 else 0), 0
    if kind == "ATTENTION_OUTPUT":
        return _attention_macs(layer, producers), 0
    return 0, 0


def _computed_in(layer: Any, producers: Mapping[str, Any]) -> str:
    """Return the type that a layer computes in: that before dequantisation of both factors, else that of its result."""
    if layer.type.name in ("MATRIX_MULTIPLY", "CONVOLUTION", "DECONVOLUTION") and layer.num_inputs > 1:
        left, right = (_dequantized(layer.get_input(index), producers) for index in (0, 1))
        if left is not None and left == right:
            return left
    return _dtype(layer.get_output(0))


def _dequantized(tensor: Any, producers: Mapping[str, Any]) -> str | None:
    """Return int8 or fp8 for a tensor that was only dequantised and laid out since; None for any other."""
    for _ in range(len(producers)):
        layer = None if tensor is None else producers.get(tensor.name)
        if layer is None or layer.type.name not in ("SHUFFLE", "IDENTITY", "DEQUANTIZE"):
            return None
        tensor = layer.get_input(0)
        if layer.type.name == "DEQUANTIZE":
            dtype = None if tensor is None else _dtype(tensor)
            return dtype if dtype in QUANTIZED.values() else None
    return None


def _quantized(layers: Mapping[str, Mapping[str, int]]) -> tuple[Precision, int] | None:
    """Return the precision that a network is quantised to, and the number of quantised tensors; None if none is."""
    counts = {name: count for name, count in layers.get("QUANTIZE", {}).items() if name in QUANTIZED.values()}
    if not counts:
        return None
    numbers = max(counts, key=lambda name: counts[name])
    if numbers == QUANTIZED[Precision.FP8]:
        return Precision.FP8, counts[numbers]
    halves = layers.get("DEQUANTIZE", {}).get(Precision.FP16.value, 0)
    kind = Precision.INT8_FP16 if 2 * halves > sum(layers.get("DEQUANTIZE", {}).values()) else Precision.INT8
    return kind, counts[numbers]


def _attention_macs(layer: Any, producers: Mapping[str, Any]) -> int:
    """Return the products of a fused attention, whose query, key and value are inputs of the layer before."""
    before = producers.get(layer.get_input(0).name) if layer.num_inputs and layer.get_input(0) is not None else None
    if before is None or before.num_inputs < 3:
        return 0
    query, key, value = (_sizes(before.get_input(index)) for index in range(3))
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _constant_bytes(tensor: Any, producers: Mapping[str, Any], constants: Mapping[str, int]) -> int:
    """Return the bytes of the constant behind a tensor, through layers that only reshape, cast or dequantise it."""
    for _ in range(len(producers)):
        if tensor is None or tensor.name in constants or tensor.name not in producers:
            break
        layer = producers[tensor.name]
        if layer.type.name not in ("SHUFFLE", "CAST", "IDENTITY", "DEQUANTIZE"):
            break
        tensor = layer.get_input(0)
    return constants.get(tensor.name, 0) if tensor is not None else 0


def _sizes(tensor: Any) -> tuple[int, ...]:
    """Return the sizes of a tensor, with 1 for an open size."""
    return tuple(max(1, size) for size in tuple(tensor.shape))


def _size(tensor: Any) -> int:
    """Return the bytes of a tensor at a batch of one."""
    try:
        return math.prod(_sizes(tensor)) * _BYTES.get(_dtype(tensor), 0)
    except ValueError:  # a rank that is not known before the build
        return 0


def _dtype(tensor: Any) -> str:
    name = str(tensor.dtype.name)
    return _DTYPES.get(name, name.lower())


def _layers(network: Any) -> Iterator[Any]:
    return (network.get_layer(index) for index in range(network.num_layers))
