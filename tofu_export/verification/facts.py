"""Facts that an ONNX file states: inputs, outputs, precision, and its model card."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import helper

from tofu_export.artifact.card import ModelCard
from tofu_export.artifact.onnx_file import load_without_weights
from tofu_export.errors import ExportError, OptionError
from tofu_export.options import Precision
from tofu_export.system.ort import TensorSpec

__all__ = ["FileFacts"]

_PRECISIONS = {
    "FLOAT": "fp32",
    "DOUBLE": "fp32",
    "FLOAT16": "fp16",
    "BFLOAT16": "bf16",
    "INT8": "int8",
    "UINT8": "int8",
    "FLOAT8E4M3FN": "fp8",
}
"""Precision of a file by the ONNX type of most of its weights."""


@dataclass(frozen=True)
class FileFacts:
    """Facts that a file states.

    Attributes:
        path: the file.
        inputs: type and shape of each input, by name.
        outputs: type and shape of each output, by name.
        card: metadata written by this project; empty for a foreign file.
        precision: from the metadata or most of the weights; None if no weights have a known type.
    """

    path: Path
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    card: ModelCard
    precision: Precision | None

    @classmethod
    def read(cls, path: Path) -> FileFacts:
        """Read a file without its weights.

        Raises:
            OptionError: there is no such file.
            ExportError: it is not a complete ONNX file.
            VerificationError: its metadata name a precision that this version does not know.
        """
        model = load_without_weights(path)
        if not model.graph.output:
            raise ExportError(f"{path} holds no graph with outputs: it is not an exported ONNX model")
        card = ModelCard.of_model(model, path.name)
        constants = {tensor.name for tensor in model.graph.initializer}
        return cls(
            path,
            {value.name: _spec(value, path.name) for value in model.graph.input if value.name not in constants},
            {value.name: _spec(value, path.name) for value in model.graph.output},
            card,
            card.precision or _precision(model),
        )

    @property
    def fixed_batch(self) -> int | None:
        """Batch size that the file is fixed to; None if it is open."""
        return self._image.shape[0]

    @property
    def image_shape(self) -> tuple[int | None, int | None, int | None]:
        """Channels, height and width of the input; None for each that the file leaves open."""
        _, channels, height, width = self._image.shape
        return channels, height, width

    @property
    def _image(self) -> TensorSpec:
        if len(self.inputs) != 1:
            raise OptionError(
                f"{self.path.name} has inputs {', '.join(self.inputs) or 'of no name'}, expected one: "
                "images [batch, channels, height, width]; a file of such inputs is compared with another by --reference"
            )
        ((name, spec),) = self.inputs.items()
        if len(spec.shape) != 4:
            raise OptionError(
                f"input {name} of {self.path.name} is {spec}, expected images [batch, channels, height, width]"
            )
        return spec


def _precision(model: onnx.ModelProto) -> Precision | None:
    """Return the precision of most of the weights."""
    known = {precision.value: precision for precision in Precision}
    numbers: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        name = _PRECISIONS.get(onnx.TensorProto.DataType.Name(tensor.data_type), "")
        if name in known:
            numbers[name] += math.prod(tensor.dims)
    return known[numbers.most_common(1)[0][0]] if numbers else None


def _spec(value: onnx.ValueInfoProto, file: str) -> TensorSpec:
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not kind.elem_type:
        raise ExportError(f"{value.name} of {file} is not a tensor of a stated type: export the model again")
    shape = tuple(size.dim_value if size.dim_value > 0 else None for size in kind.shape.dim)
    return TensorSpec(helper.tensor_dtype_to_np_dtype(kind.elem_type), shape)
