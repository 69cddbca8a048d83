"""Look at an ONNX file before a builder does.

TensorRT "parses" an empty or a text file, accepts opset 99, and reports a scatter reduction without naming the node.
So the file is read here first, cheaply (without external data), and refused in plain words.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from tofu_export.engines._node_rules import Finding, find_rejections
from tofu_export.engines.flavours import Flavour
from tofu_export.errors import EngineBuildError

__all__ = ["InputShape", "Preflight", "preflight", "read_graph_file"]

MAX_OPSET = 26
"""Newest opset of the default domain that the node rules know (onnx 1.23)."""

SHOWN = 5
"""Refused nodes that an error lists before it only counts them."""

Axis = int | str
"""Size of an axis; a string where it is dynamic (its name, or `?`)."""


@dataclass(frozen=True)
class InputShape:
    """Name and shape of one graph input."""

    name: str
    axes: tuple[Axis, ...]

    @property
    def is_static(self) -> bool:
        """True if every axis has a fixed size."""
        return not any(isinstance(axis, str) for axis in self.axes)


@dataclass(frozen=True)
class Preflight:
    """What the builder will be given.

    Attributes:
        path: the file.
        opset: version of the default operator set.
        nodes: number of nodes, sub-graphs and functions included.
        inputs: graph inputs that are not initializers.
        notes: things worth telling that stop nothing.
    """

    path: Path
    opset: int
    nodes: int
    inputs: tuple[InputShape, ...]
    notes: tuple[Finding, ...]


def preflight(path: Path, flavour: Flavour) -> Preflight:
    """Check that `path` is an ONNX file that the flavour's parser and builder have a chance with.

    Raises:
        EngineBuildError: it is missing, not an ONNX graph, lacks external data, or has nodes that are known to fail.
    """
    model = read_graph_file(path)
    opset = _default_opset(model, path)
    _check_external_data(model, path)
    nodes, findings = find_rejections(model, flavour)
    fatal = [finding for finding in findings if finding.fatal]
    if fatal:
        shown = "".join(f"\n  - {finding}" for finding in fatal[:SHOWN])
        more = f"\n  and {len(fatal) - SHOWN} more" if len(fatal) > SHOWN else ""
        raise EngineBuildError(f"{flavour.name} cannot build {path.name}:{shown}{more}")
    notes = tuple(finding for finding in findings if not finding.fatal)
    return Preflight(path, opset, nodes, _inputs(model, path), notes)


def read_graph_file(path: Path) -> onnx.ModelProto:
    """The model in `path` without its external data.

    Raises:
        EngineBuildError: there is no such file, or it holds no ONNX graph with outputs.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise EngineBuildError(f"{path} {what}, expected an ONNX file")
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except OSError as error:
        raise EngineBuildError(f"{path} cannot be read: {error}") from error
    except Exception as error:  # protobuf's DecodeError, in a module without types
        raise EngineBuildError(
            f"{path} is not an ONNX file, or only a part of one ({path.stat().st_size} bytes do not decode): "
            "export or copy it again"
        ) from error
    if not model.HasField("graph") or not model.graph.node:
        raise EngineBuildError(f"{path} holds no graph ({path.stat().st_size} bytes), expected an exported ONNX model")
    if not model.graph.output:
        raise EngineBuildError(f"{path} has a graph without outputs: nothing would be computed")
    return model


def _default_opset(model: onnx.ModelProto, path: Path) -> int:
    versions = [int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if not versions:
        raise EngineBuildError(f"{path} imports no default operator set: it is damaged, export it again")
    if not 1 <= versions[0] <= MAX_OPSET:
        raise EngineBuildError(
            f"{path} uses opset {versions[0]}, expected 1 to {MAX_OPSET}: export it with a lower --opset"
        )
    return versions[0]


def _check_external_data(model: onnx.ModelProto, path: Path) -> None:
    needed: dict[str, int] = {}
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            end = int(entries.get("offset", 0)) + int(entries.get("length", 0))
            location = entries.get("location", "")
            needed[location] = max(end, needed.get(location, 0))
    for location, size in needed.items():
        data = path.parent / location
        if not data.is_file():
            raise EngineBuildError(f"{path} keeps weights in {location!r}, which is not beside it: copy both files")
        if data.stat().st_size < size:
            raise EngineBuildError(
                f"{data} has {data.stat().st_size} bytes, but {path.name} needs {size}: it was cut, copy it again"
            )


def _inputs(model: onnx.ModelProto, path: Path) -> tuple[InputShape, ...]:
    constants = {tensor.name for tensor in model.graph.initializer}
    return tuple(_input(value, path) for value in model.graph.input if value.name not in constants)


def _input(value: onnx.ValueInfoProto, path: Path) -> InputShape:
    if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
        raise EngineBuildError(f"input {value.name!r} of {path} is not a tensor of known rank, which TensorRT needs")
    dims = value.type.tensor_type.shape.dim
    axes = (dim.dim_value if dim.dim_value > 0 else dim.dim_param or "?" for dim in dims)
    return InputShape(value.name, tuple(axes))
