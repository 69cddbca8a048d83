"""What TensorRT's parser made of the file: layer types, data types, attention. Runs in the build worker."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from tofu_export.errors import PrecisionMismatchError
from tofu_export.options import Precision

__all__ = ["allow_decomposition", "check_precision", "layer_table"]

COMPUTE_LAYERS = ("MATRIX_MULTIPLY", "CONVOLUTION", "DECONVOLUTION", "EINSUM", "ATTENTION_OUTPUT")
"""Layers that carry the arithmetic of a network; their output type is its precision."""

_DTYPES = {"FLOAT": "fp32", "HALF": "fp16"}


def layer_table(network: Any) -> dict[str, dict[str, int]]:
    """For each layer type, the number of layer outputs of each data type."""
    table: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for layer in _layers(network):
        for index in range(layer.num_outputs):
            output = layer.get_output(index)
            if output is not None:
                name = output.dtype.name
                table[layer.type.name][_DTYPES.get(name, name.lower())] += 1
    return {kind: dict(dtypes) for kind, dtypes in table.items()}


def check_precision(layers: Mapping[str, Mapping[str, int]], precision: Precision) -> None:
    """Refuse a network whose heavy layers do not have the precision that the file is said to have.

    A reduced-precision file may keep FP32 islands, so one heavy layer of its type is enough; an FP32 file has no
    heavy layer of a shorter type. In an int8 network a product has floating-point inputs and outputs, and what makes it
    an int8 one are the layers that quantise them; no other file has those.

    Raises:
        PrecisionMismatchError: they do not.
    """
    found: defaultdict[str, int] = defaultdict(int)
    quantized = layers.get("QUANTIZE", {}).get(Precision.INT8.value, 0)
    if precision is Precision.INT8 and quantized:
        return
    if quantized:
        raise PrecisionMismatchError(
            f"precision {precision.value} was asked for, but the file quantises {quantized} tensors to int8: "
            "ask for --precision int8"
        )
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


def allow_decomposition(trt: ModuleType, network: Any) -> tuple[str, ...]:
    """Let every attention layer run as several kernels where no fused one exists; returns their names.

    Reason: TensorRT-RTX has no fused FP32 attention, nor one of head size 512, and its parser leaves `decomposable`
    unset, so that the build fails. Layers that have a fused kernel keep it (FP16: same plan bytes). Layers arrive as
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


def _layers(network: Any) -> Iterator[Any]:
    return (network.get_layer(index) for index in range(network.num_layers))
