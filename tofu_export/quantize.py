"""Turn a float32 file into an int8 one: matrix products with weights in int8, everything else in float32.

The file says so by QuantizeLinear and DequantizeLinear around each product, which onnxruntime and TensorRT turn into
int8 kernels. Weights are symmetric with one scale per output channel, activations symmetric with one scale for each
tensor, found on images: what TensorRT accepts, and as fast in onnxruntime as asymmetric ones.

Left in float32: matching and merging, attention's own products, softmax, norms, GELU, the patch embedding and the
classifier. See docs/decisions/012-int8.md for what was measured.

`onnxruntime.quantization` is a Python package of its own inside of onnxruntime; it enters here, sessions enter through
`tofu_export.ort`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from tofu_export.errors import ExportError, OptionError
from tofu_export.onnx_file import load_without_weights, save

__all__ = ["CALIBRATION_IMAGES", "Calibration", "quantize"]

CALIBRATION_IMAGES = 32
"""Images that the ranges of activations are taken from. On the demo model 128 give the same ranges within 2 %."""

METHOD = "minmax"

_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


@dataclass(frozen=True)
class Calibration:
    """How an int8 file came about.

    Attributes:
        images: number of images that the ranges of activations were taken from.
        source: where these came from.
        real: they are real images, not generated ones.
        method: how a range follows from what was seen.
        products: matrix products in int8.
        left: matrix products and convolutions that stayed in float32.
    """

    images: int
    source: str
    real: bool
    method: str
    products: int
    left: int

    def to_dict(self) -> dict[str, Any]:
        """As in report.json (`artifacts[].calibration`)."""
        return dict(vars(self))

    def __str__(self) -> str:
        text = f"{self.products} products in int8, {self.left} left in fp32, calibrated on {self.images} images"
        return text if self.real else f"{text}, which are generated: give real ones with --images DIR"


def quantize(
    source: Path,
    path: Path,
    pixels: NDArray[np.float32],
    metadata: Mapping[str, Any],
    *,
    origin: str,
    real: bool,
) -> Calibration:
    """Write the int8 form of a file.

    Args:
        source: a lowered float32 file with one input, an image.
        path: the file to write.
        pixels: [n, C, H, W] float32, normalised images; the first `CALIBRATION_IMAGES` are used.
        metadata: as for `tofu_export.export.save`.
        origin: where the images came from, for the report.
        real: they are real images.

    Raises:
        OptionError: there is no image.
        ExportError: the file has no product with weights, or the quantizer fails on it.
    """
    if not len(pixels):
        raise OptionError(
            "int8 needs at least one image to find the ranges of activations: give some with --images DIR"
        )
    graph = load_without_weights(source).graph
    chosen, left = _products(graph)
    if not chosen:
        raise ExportError(f"{source.name} has no matrix product with constant weights: there is nothing to do in int8")
    used = pixels[:CALIBRATION_IMAGES]
    with tempfile.TemporaryDirectory(prefix=".int8-", dir=path.parent) as scratch:
        draft = Path(scratch, "draft.onnx")
        _run_quantizer(source, draft, graph.input[0].name, used, chosen)
        model = ir.load(draft)
        _name_by_stage(model)
        save(model, path, metadata)
    return Calibration(len(used), origin, real, METHOD, len(chosen), len(left))


def _products(graph: onnx.GraphProto) -> tuple[list[str], list[str]]:
    """Names of the nodes to compute in int8, and of the other products."""
    constants = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    chosen: list[str] = []
    left: list[str] = []
    for node in graph.node:
        if node.op_type not in ("MatMul", "Gemm", "Conv"):
            continue
        weighted = node.op_type == "MatMul" and constants.get(node.input[1]) == 2 and "/fuse/" not in node.name
        (chosen if weighted else left).append(node.name)
    return chosen, left


def _run_quantizer(
    source: Path, draft: Path, input_name: str, pixels: NDArray[np.float32], chosen: Sequence[str]
) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """One image at a time."""

        def __init__(self) -> None:
            self._images = iter(pixels)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            image = next(self._images, None)
            return None if image is None else {input_name: image[None]}

    try:
        with _quiet():
            quantize_static(
                str(source),
                str(draft),
                Reader(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["MatMul"],
                nodes_to_quantize=list(chosen),
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                use_external_data_format=source.with_name(f"{source.name}.data").exists(),
                extra_options={
                    "ActivationSymmetric": True,  # zero points of 0, as TensorRT demands
                    "WeightSymmetric": True,
                    "OpTypesToExcludeOutputQuantization": ["MatMul"],  # what comes out goes on in float32
                },
            )
    except Exception as error:
        first = (str(error).splitlines() or ["no message"])[0]
        raise ExportError(
            f"onnxruntime's quantizer failed on {source.name}: {type(error).__name__}: {first}. "
            "Leave int8 out of --precision, and report the model"
        ) from error


def _name_by_stage(model: ir.Model) -> None:
    """Name the nodes that the quantizer put in after the product that they are for, so that profiles group by stage."""
    for node in model.graph:
        if node.op_type != "MatMul":
            continue
        for index, what in ((0, "input"), (1, "weight")):
            value = node.inputs[index]
            for kind in (_DEQUANTIZE, _QUANTIZE):
                producer = None if value is None else value.producer()
                if producer is None or producer.op_type != kind:
                    break
                producer.name = f"{node.name}/{what}/{kind}"
                value = producer.inputs[0]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantizer's advice, which goes to the root logger and to stdout, off the user's terminal."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)
