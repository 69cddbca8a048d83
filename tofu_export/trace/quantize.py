"""Quantise a file: the blocks' products with weights in int8 or fp8, everything else unchanged.

The file has QuantizeLinear and DequantizeLinear nodes (`graph_patterns.quantized`), of which onnxruntime and TensorRT
make kernels of that type. The range of each activation is its largest value on images, once the uneven channels after
norms have been smoothed. See docs/decisions/012-int8.md for what was measured, and why this is not onnxruntime's own
quantizer, and docs/decisions/030-quantised-engines.md for files in float16.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx_ir.passes import common

from tofu_export.artifact.onnx_file import load_without_weights, save
from tofu_export.errors import ExportError, OptionError, VerificationError
from tofu_export.graph_patterns.attention.find import Attention, attentions_of
from tofu_export.graph_patterns.lowering import census
from tofu_export.graph_patterns.quantized.attention import (
    LARGEST_WEIGHT,
    factors_of,
    has_one_query,
    measured,
    quantize_attention,
)
from tofu_export.graph_patterns.quantized.check import first_difference, range_name
from tofu_export.graph_patterns.quantized.form import FORMS
from tofu_export.graph_patterns.quantized.products import (
    activations_of,
    is_in_block,
    is_skipped,
    products_of,
    quantize_products,
    smooth,
)
from tofu_export.options import Precision, Quantization
from tofu_export.report.artifacts import CalibrationEntry
from tofu_export.system.memory import trim
from tofu_export.system.ort import open_copy

__all__ = ["RANGES", "Calibration", "open_graph", "quantize"]

RANGES = "activation_ranges"
"""Metadata key of the largest value of the input of each product, by the product's name."""

_DEFAULT = Quantization()
METHOD = "minmax, norms smoothed"
_BATCH = 4
"""Batch size for calibration if the file leaves it open."""
_PRODUCTS = ("MatMul", "Gemm", "Conv")


@dataclass(frozen=True)
class Calibration:
    """Calibration of a quantised file.

    Attributes:
        images: number of images that the ranges of activations were taken from.
        source: where the images came from.
        real: True for real images, False for generated ones.
        method: how ranges are derived from the images.
        numbers: type of the quantised numbers, int8 or fp8.
        products: number of quantised matrix products.
        rest: precision of everything else.
        left: number of matrix products and convolutions in that precision.
        attentions: attentions whose own two products are quantised, too; `products` does not count these.
        skip: blocks and modules excluded on request.
        ops: number of nodes by operator in the file.
    """

    images: int
    source: str
    real: bool
    method: str
    numbers: str
    products: int
    rest: str
    left: int
    attentions: int
    skip: tuple[str, ...]
    ops: Mapping[str, int]

    def entry(self) -> CalibrationEntry:
        """Return the entry of report.json (`artifacts[].calibration`)."""
        return CalibrationEntry(**{name: value for name, value in vars(self).items() if name != "ops"})

    def __str__(self) -> str:
        attentions = f" and {self.attentions} attentions" if self.attentions else ""
        text = (
            f"{self.products} products{attentions} in {self.numbers}, {self.left} left in {self.rest}, "
            f"calibrated on {self.images} images"
        )
        return text if self.real else f"{text}, which are generated: give real ones with --images DIR"


def quantize(
    source: Path,
    path: Path,
    pixels: NDArray[np.float32],
    metadata: Mapping[str, Any],
    *,
    precision: Precision,
    origin: str,
    real: bool,
    wanted: Quantization = _DEFAULT,
) -> Calibration:
    """Write the quantised form of a file, and check its constants against the file.

    Args:
        source: a lowered file with one input, an image, in the type that `precision` is traced in.
        path: the file to write.
        pixels: [n, C, H, W] float32, normalised images for calibration.
        metadata: as for `tofu_export.artifact.onnx_file.save`.
        precision: the quantised precision.
        origin: where the images came from, for the report.
        real: True for real images.
        wanted: what to leave out, and whether to quantise attention, too.

    Raises:
        OptionError: there is no image, or a block or module to leave out is not in the file.
        ExportError: the file has no product to quantise, cannot be run, or has values that are not finite.
        VerificationError: the constants written are not those of the file to half a step.
    """
    if not len(pixels):
        raise OptionError(
            f"{precision.value} needs at least one image to find the ranges of activations: give some with --images DIR"
        )
    form = FORMS[precision]
    model = open_graph(source)
    products, attentions = _chosen(model, source.name, precision, wanted)
    seen = _largest(source, dict.fromkeys(measured(attentions), 1) | activations_of(products), pixels, precision)
    factors = smooth(model, products, seen)
    largest = {name: found / factors.get(name, 1) for name, found in seen.items()}
    reaches = {name: float(found.max()) for name, found in largest.items()}
    ranges = _ranges(products, attentions, reaches)
    quantize_products(model, products, largest, form)
    quantize_attention(model, attentions, reaches, form)
    common.RemoveUnusedNodesPass()(model)
    ir.external_data.load_to_model(model)  # what stays unquantised
    ops = census(model)
    made = Calibration(
        len(pixels), origin, real, METHOD, form.name, len(products), precision.traced.value,
        sum(ops.get(kind, 0) for kind in _PRODUCTS) - len(products) - 2 * len(attentions), len(attentions),
        wanted.skip, ops,
    )  # fmt: skip
    save(model, path, {**metadata, RANGES: ranges})
    del model, products, attentions
    right = _chosen(open_graph(source), source.name, precision, wanted)
    if problem := first_difference(*right, open_graph(path), seen, factors, form):
        raise VerificationError(f"{path.name} is not what was to be written: {problem}. This is a defect: report it")
    return made


def _chosen(
    model: ir.Model, name: str, precision: Precision, wanted: Quantization
) -> tuple[list[ir.Node], list[Attention]]:
    """Return the products and attentions of a lowered graph to quantise.

    Raises:
        OptionError: a block or module to leave out is not in the graph.
        ExportError: there is nothing to quantise.
    """
    candidates, attentions = products_of(model), []
    if wanted.attention and precision is Precision.FP8:
        attentions = [each for each in attentions_of(model) if is_in_block(each.softmax) and not has_one_query(each)]
        if not attentions:
            raise ExportError(f"{name} has no attention that can be quantised: leave out --quantize-attention")
    nodes = [*candidates, *(each.softmax for each in attentions)]
    for part in wanted.skip:
        if not any(is_skipped(node, (part,)) for node in nodes):
            modules = sorted({re.sub(r"^blocks\w*\.\d+[./]", "", str(node.name)).rpartition("/")[0] for node in nodes})
            raise OptionError(
                f"--quantize-skip names {part!r}, which is no block and no module of the blocks: there are "
                f"{', '.join(modules)}"
            )
    products = [node for node in candidates if not is_skipped(node, wanted.skip)]
    if not products:
        raise ExportError(
            f"{name} has no product with weights in a block{' that is not skipped' * bool(candidates)}: leave "
            f"{precision.value} out of --precision"
        )
    return products, [each for each in attentions if not is_skipped(each.softmax, wanted.skip)]


def _ranges(
    products: Sequence[ir.Node], attentions: Sequence[Attention], reaches: Mapping[str, float]
) -> dict[str, float]:
    """Return the metadata `RANGES`: the ranges of the products' inputs, and of the factors in attention."""
    ranges = {str(node.name): reaches[str(node.inputs[0].name)] for node in products if node.inputs[0]}
    for attention in attentions:
        for node, index, value in factors_of(attention):
            ranges[range_name(node, index)] = reaches.get(str(value.name), LARGEST_WEIGHT)
    return ranges


def open_graph(path: Path) -> ir.Model:
    """Read the graph of a file; its large weights are loaded when needed."""
    model = ir.from_proto(load_without_weights(path))
    ir.external_data.set_base_dir(model.graph, path.parent)
    return model


def _largest(
    source: Path, activations: Mapping[str, int], pixels: NDArray[np.float32], precision: Precision
) -> dict[str, NDArray[np.float32]]:
    """Return the largest absolute value of each channel of the activations on the images, float32 [K] by name.

    A copy of the file computes the values, so that no activation is kept. NaN does not show in a maximum, but reaches
    the outputs.
    """
    proto = load_without_weights(source)
    size = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value or min(_BATCH, len(pixels))
    _give_largest(proto, activations)
    session = open_copy(proto, source)
    ((feed, spec),) = session.inputs.items()
    found: dict[str, NDArray[np.float32]] = {}
    for start in range(0, len(pixels), size):
        seen = session.run({feed: pixels[np.arange(start, start + size) % len(pixels)].astype(spec.dtype)})
        for index, name in enumerate(activations):
            own = seen[f"largest_{index}"]
            found[name] = np.maximum(found.get(name, own), own)
        wild = [name for name, values in seen.items() if not np.isfinite(values).all()]
        if wild:
            raise ExportError(
                f"{source.name}: {wild[0]} is not finite on the images, so {precision.value} cannot be calibrated"
            )
    del session
    trim()
    return found


def _give_largest(proto: onnx.ModelProto, activations: Mapping[str, int]) -> None:
    """Add the outputs `largest_0` and so on to a graph: the largest value of each channel, by activation."""
    graph = proto.graph
    graph.initializer.append(numpy_helper.from_array(np.array([0], dtype=np.int64), "largest/axis"))
    for index, (name, channels) in enumerate(activations.items()):
        result = f"largest_{index}"
        rows = numpy_helper.from_array(np.array([-1, channels], dtype=np.int64), f"{result}/shape")
        graph.initializer.append(rows)
        graph.node.extend(
            [
                helper.make_node("Cast", [name], [f"{result}/wide"], to=TensorProto.FLOAT),
                helper.make_node("Abs", [f"{result}/wide"], [f"{result}/abs"]),
                helper.make_node("Reshape", [f"{result}/abs", rows.name], [f"{result}/rows"]),
                helper.make_node("ReduceMax", [f"{result}/rows", "largest/axis"], [result], keepdims=0),
            ]
        )
        graph.output.append(helper.make_tensor_value_info(result, TensorProto.FLOAT, [channels]))
