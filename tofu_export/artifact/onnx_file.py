"""Write graphs as ONNX files, and read a file without loading its weights.

A graph of a hundred kilobytes comes with hundreds of megabytes of weights. Code that needs only the graph, to change a
copy of it, would otherwise hold the weights twice. In protocol buffers a message is a sequence of fields, each a key
(number and kind), then a length, then its bytes; so a field can be skipped without reading it.

Source: https://protobuf.dev/programming-guides/encoding, and the field numbers of onnx.proto3.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import onnx_ir as ir

from tofu_export.errors import ExportError
from tofu_export.system.files import require_file

__all__ = ["METADATA_PREFIX", "load_without_weights", "save", "write"]

METADATA_PREFIX = "tofu_export."
"""Prefix of the entries that this project writes into `metadata_props`."""

EXTERNAL_DATA_BYTES = 1_900_000_000
"""Weights beyond this go into a file of their own: protobuf cannot hold 2 GiB."""

LARGE_BYTES = 1 << 20
"""Size from which weights are not loaded with the graph."""

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class _Field(NamedTuple):
    """One field of a message: number, kind, start of its key, and position of its content."""

    number: int
    kind: int
    start: int
    content: int
    end: int


class _DamagedError(ValueError):
    """Error for bytes that are not a message, or only a part of one."""


def save(model: ir.Model, path: Path, metadata: Mapping[str, Any]) -> list[Path]:
    """Write a graph of this project as an ONNX file and return the files written, weights of large models first.

    Args:
        model: a lowered graph.
        path: the file to write; external data gets the name `path` + `.data`.
        metadata: stored in `metadata_props` under `tofu_export.KEY`, anything but text as JSON.
    """
    model.producer_name = "tofu-export"
    model.producer_version = None
    model.metadata_props.clear()
    for key, value in metadata.items():
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        model.metadata_props[f"{METADATA_PREFIX}{key}"] = text
    return write(model, path)


def write(model: ir.Model, path: Path) -> list[Path]:
    """Write a graph without changing its metadata; otherwise as `save`."""
    weight_bytes = sum(
        value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None
    )
    if weight_bytes <= EXTERNAL_DATA_BYTES:
        ir.save(model, path)
        return [path]
    data = path.with_name(path.name + ".data")
    ir.save(model, path, external_data=data.name)
    return [data, path]


def load_without_weights(path: Path) -> onnx.ModelProto:
    """Read a model whose large weights are declared as external data located in `path` itself.

    Loaded from its folder, it is the same model. Existing external data keeps its declaration.

    Raises:
        OptionError: there is no such file.
        ExportError: it is not a complete ONNX file.
    """
    require_file(path, "an ONNX file")
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read(data, path.name)
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # ours, an empty file's ValueError, or protobuf's DecodeError, in a module without types
        raise ExportError(f"{path} is not an ONNX file, or only a part of one: copy or export it again") from error


def _read(data: mmap.mmap, name: str) -> onnx.ModelProto:
    rest, graph, tensors = bytearray(), bytearray(), []
    has_graph = False
    for field in _fields(data, 0, len(data)):
        if (field.number, field.kind) != (_GRAPH, _BYTES):
            rest += data[field.start : field.end]
            continue
        has_graph = True
        for inner in _fields(data, field.content, field.end):
            if (inner.number, inner.kind) == (_INITIALIZER, _BYTES):
                tensors.append(_tensor(data, inner, name))
            else:
                graph += data[inner.start : inner.end]
    model: onnx.ModelProto = onnx.ModelProto.FromString(bytes(rest))
    if has_graph:
        model.graph.ParseFromString(bytes(graph))
        model.graph.initializer.extend(tensors)
    _check_types(model)
    return model


def _check_types(model: onnx.ModelProto) -> None:
    """Refuse type numbers that no version of the format defines, which later readers fail on."""
    known = set(onnx.TensorProto.DataType.values())
    graph = model.graph
    found = {
        *(tensor.data_type or -1 for tensor in graph.initializer),
        *(value.type.tensor_type.elem_type for value in (*graph.input, *graph.output, *graph.value_info)),
    }
    if not found <= known:
        raise _DamagedError(f"types {sorted(found - known)}")


def _tensor(data: mmap.mmap, whole: _Field, name: str) -> onnx.TensorProto:
    weights = None
    rest = bytearray()
    for field in _fields(data, whole.content, whole.end):
        if (field.number, field.kind) == (_RAW_DATA, _BYTES) and field.end - field.content >= LARGE_BYTES:
            weights = field
        else:
            rest += data[field.start : field.end]
    tensor: onnx.TensorProto = onnx.TensorProto.FromString(bytes(rest))
    if weights is not None:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entries = {"location": name, "offset": weights.content, "length": weights.end - weights.content}
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))
    return tensor


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[_Field]:
    """Yield the fields of the message between two positions."""
    place = start
    while place < end:
        key, content = _varint(data, place, end)
        number, kind = key >> 3, key & 7
        if kind == _BYTES:
            length, content = _varint(data, content, end)
            stop = content + length
        elif kind == _VARINT:
            stop = _varint(data, content, end)[1]
        elif kind in (_FIXED64, _FIXED32):
            stop = content + (8 if kind == _FIXED64 else 4)
        else:
            raise _DamagedError(f"field of kind {kind} at {place}")
        if stop > end:
            raise _DamagedError(f"field at {place} ends at {stop}, after its message, which ends at {end}")
        yield _Field(number, kind, place, content, stop)
        place = stop


def _varint(data: mmap.mmap, place: int, end: int) -> tuple[int, int]:
    """Read a number of 7 bits per byte, lowest first; return it and the position after it."""
    value = shift = 0
    while place < end and shift < 64:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
    raise _DamagedError(f"number without an end at {place}")
