"""External data of ONNX files: which files hold it, and a hash of a file together with it.

A file of a few hundred kilobytes may keep gigabytes of weights in other files. Its own hash does not cover them:
with other weights beside it, it is another model with the same hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx

from tofu_export.artifact.onnx_file import load_without_weights
from tofu_export.errors import ExportError
from tofu_export.system.files import require_file, sha256_of
from tofu_export.system.subgraphs import graphs_in

__all__ = ["data_files", "external_files", "leaves_folder", "sha256_of_model", "tensors_of"]


def tensors_of(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield all constants of a model, including those in attributes, sub-graphs and functions."""
    yield from _tensors_of_graph(model.graph)
    for function in model.functions:
        yield from _tensors_of_nodes(function.node)


def external_files(model: onnx.ModelProto) -> set[str]:
    """Return the names of the files that hold constants of a model, relative to its folder, as stored in the model."""
    return {
        entry.value
        for tensor in tensors_of(model)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }


def leaves_folder(location: str) -> bool:
    """True if a relative path leads out of its folder, on any system."""
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    return posix.is_absolute() or bool(windows.drive or windows.root) or ".." in (*posix.parts, *windows.parts)


def data_files(path: Path) -> list[str]:
    """Return the sorted names of the external data files of an ONNX file; empty for other files."""
    try:
        model = load_without_weights(path)
    except ExportError:
        return []
    return sorted(external_files(model) - {path.name})


def sha256_of_model(path: Path) -> str:
    """Return the SHA-256 of an ONNX file and of its external data, in hexadecimal.

    For a file without external data, or one that is not ONNX, the hash is that of the file. Otherwise it is that of a
    list: the hash of the file, then a line with hash and name for each external data file, sorted by name.

    Raises:
        ExportError: external data is missing, or outside the file's folder.
        OptionError: there is no such file.
    """
    require_file(path, "an ONNX file")
    own, names = sha256_of(path), data_files(path)
    if not names:
        return own
    lines = [own, *(f"{sha256_of(_data_file(path, name))}  {name}" for name in names)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _data_file(path: Path, location: str) -> Path:
    """Return the path of an external data file, checked to be inside the folder."""
    if leaves_folder(location):
        raise ExportError(
            f"{path.name} keeps weights in {location!r}, which is not inside its folder: move them beside the file"
        )
    data = path.absolute().parent / location
    if not data.is_file():
        raise ExportError(f"{path.name} keeps weights in {location!r}, which is not beside it: copy both files")
    return data


def _tensors_of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _tensors_of_nodes(graph.node)


def _tensors_of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield from attribute.tensors
            if attribute.HasField("t"):
                yield attribute.t
            for inner in graphs_in(attribute):
                yield from _tensors_of_graph(inner)
