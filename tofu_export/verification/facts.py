"""What an ONNX file says about itself: inputs, outputs, precision, and the metadata that this library writes."""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from tofu_export.artifact.onnx_file import METADATA_PREFIX, load_without_weights, metadata_of
from tofu_export.errors import ExportError, OptionError, VerificationError
from tofu_export.options import BatchRange, Precision
from tofu_export.system.ort import TensorSpec

__all__ = ["FileFacts", "is_preprocessing"]

_TEXTS = frozenset({"version", "model", "precision", "target", "batch"})
"""Metadata that are plain text; the others are JSON (`onnx_file.save`)."""

_PRECISIONS = {
    "FLOAT": "fp32",
    "DOUBLE": "fp32",
    "FLOAT16": "fp16",
    "BFLOAT16": "bf16",
    "INT8": "int8",
    "UINT8": "int8",
    "FLOAT8E4M3FN": "fp8",
}
"""Precision of a file most of whose weights are of this ONNX type."""


@dataclass(frozen=True)
class FileFacts:
    """What a file says about itself.

    Attributes:
        path: the file.
        inputs: type and shape of each input, by name.
        outputs: the same of each output.
        metadata: what this library wrote, without its prefix, decoded; empty for a foreign file.
        precision: as the metadata or most of the weights say; None where there are no weights of a known type.
    """

    path: Path
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    metadata: Mapping[str, Any]
    precision: Precision | None

    @classmethod
    def read(cls, path: Path) -> FileFacts:
        """Read `path` without its weights.

        Raises:
            OptionError: there is no such file.
            ExportError: it is not a whole ONNX file.
            VerificationError: it says that it is of a precision that this version does not know.
        """
        model = load_without_weights(path)
        if not model.graph.output:
            raise ExportError(f"{path} holds no graph with outputs: it is not an exported ONNX model")
        metadata = _metadata(model)
        constants = {tensor.name for tensor in model.graph.initializer}
        return cls(
            path,
            {value.name: _spec(value, path.name) for value in model.graph.input if value.name not in constants},
            {value.name: _spec(value, path.name) for value in model.graph.output},
            metadata,
            _precision(model, metadata, path.name),
        )

    @property
    def is_ours(self) -> bool:
        """True if this library wrote the file."""
        return "model" in self.metadata

    @property
    def fixed_batch(self) -> int | None:
        """The batch size that the file is fixed to, None where it leaves that open."""
        return self._image.shape[0]

    @property
    def image_shape(self) -> tuple[int | None, int | None, int | None]:
        """Channels, height and width of the input; None where the file leaves one open."""
        _, channels, height, width = self._image.shape
        return channels, height, width

    @property
    def _image(self) -> TensorSpec:
        if len(self.inputs) != 1:
            raise OptionError(
                f"{self.path.name} has inputs {', '.join(self.inputs) or 'of no name'}, expected one: "
                "images [batch, channels, height, width]"
            )
        ((name, spec),) = self.inputs.items()
        if len(spec.shape) != 4:
            raise OptionError(
                f"input {name} of {self.path.name} is {spec}, expected images [batch, channels, height, width]"
            )
        return spec

    @property
    def batch(self) -> BatchRange:
        """The batch sizes that the file serves, as far as it says so."""
        return BatchRange.parse(self.part("batch", str)) if "batch" in self.metadata else BatchRange()

    @property
    def preprocessing(self) -> dict[str, Any] | None:
        """How images are prepared for the file, None where it does not say.

        Raises:
            VerificationError: it says something else.
        """
        found: dict[str, Any] | None = self.find("preprocessing", dict)
        if found is not None and not is_preprocessing(found):
            raise _damaged(self.path.name, "preprocessing")
        return found

    def find(self, key: str, kind: type) -> Any:
        """One of the metadata, None where the file lacks it.

        Raises:
            VerificationError: it is something else than a `kind`.
        """
        return self.part(key, kind) if key in self.metadata else None

    def part(self, key: str, kind: type) -> Any:
        """One of the metadata.

        Raises:
            VerificationError: the file lacks it, or it is something else than a `kind`.
        """
        if key not in self.metadata:
            by = f" by tofu-export {self.metadata['version']}" if "version" in self.metadata else ""
            raise VerificationError(
                f"{self.path.name} was written{by} without metadata {METADATA_PREFIX}{key}: export it again, or "
                "compare it with another file by --reference"
            )
        value = self.metadata[key]
        if not isinstance(value, kind):
            raise _damaged(self.path.name, key)
        return value


def is_preprocessing(found: Mapping[str, Any]) -> bool:
    """True if means and deviations of an image's channels are lists of numbers."""
    numbers = [found.get(key) for key in ("mean", "std")]
    return all(isinstance(row, list) and all(isinstance(value, (int, float)) for value in row) for row in numbers)


def _metadata(model: onnx.ModelProto) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, text in metadata_of(model).items():
        found[key] = text
        if key not in _TEXTS:
            with contextlib.suppress(ValueError, RecursionError):  # `part` sees whether it is what it should be
                found[key] = json.loads(text)
    return found


def _damaged(file: str, key: str) -> VerificationError:
    return VerificationError(
        f"metadata {METADATA_PREFIX}{key} of {file} are not what this version writes: the file is damaged or of "
        "another version; export it again, or compare it with another file by --reference"
    )


def _precision(model: onnx.ModelProto, metadata: Mapping[str, Any], file: str) -> Precision | None:
    known = {precision.value: precision for precision in Precision}
    if "precision" in metadata:
        if metadata["precision"] not in known:
            raise VerificationError(
                f"{file} says that it is {metadata['precision']}, expected one of {', '.join(known)}: "
                "a newer version may know it"
            )
        return known[metadata["precision"]]
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
