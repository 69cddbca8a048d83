"""Check an ONNX file before a builder reads it.

TensorRT "parses" an empty or a text file, accepts opset 99, and reports a scatter reduction without naming the node.
So the file is read here first, cheaply (without its weights), and refused in the words of `tofu_export.linting`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from tofu_export.artifact.card import ModelCard
from tofu_export.engines.building.turing import pairwise_products
from tofu_export.engines.describing.stages import Kind, places
from tofu_export.engines.flavours import TURING, Flavour
from tofu_export.errors import EngineBuildError, ExportError
from tofu_export.linting import Finding, Runtime, Severity
from tofu_export.linting.linter import lint_model
from tofu_export.linting.onnx_files import open_graph

__all__ = ["InputShape", "Preflight", "preflight", "read_graph_file"]

SHOWN = 5
"""Number of refused nodes that an error lists; further ones are counted."""

Axis = int | str
"""Size of an axis; a string if it is dynamic (its name, or `?`)."""


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
    """Result of the check of a file before the build.

    Attributes:
        path: the file.
        opset: version of the default operator set.
        nodes: number of nodes, sub-graphs and functions included.
        inputs: graph inputs that are not initializers.
        notes: notes that do not prevent the build.
        card: metadata of the model in the file.
        rewritten: model to build instead of the file; None for the file as it is.
        remarks: description of the rewriting.
    """

    path: Path
    opset: int
    nodes: int
    inputs: tuple[InputShape, ...]
    notes: tuple[Finding, ...]
    card: ModelCard
    rewritten: onnx.ModelProto | None = None
    remarks: tuple[str, ...] = ()


def preflight(path: Path, flavour: Flavour, capabilities: Sequence[str] = ()) -> Preflight:
    """Check that a file is an ONNX file that the flavour's parser and builder may accept.

    Args:
        path: the file.
        flavour: which TensorRT.
        capabilities: compute capabilities that the engine is for.

    Raises:
        EngineBuildError: the file is missing, not an ONNX graph, lacks external data, or has nodes known to fail.
    """
    model = read_graph_file(path)
    summed = pairwise_products(model) if TURING in capabilities else ()
    try:
        report = lint_model(model, path, (Runtime(flavour.name),), capabilities)
    except ExportError as error:
        raise EngineBuildError(str(error)) from error
    fatal = [finding for finding in report.of(Severity.ERROR) if not finding.build_copes]
    if fatal or report.opset is None:
        where = _where(model.graph)
        shown = "".join(f"\n  - {where.get(finding.node, '')}{finding}" for finding in fatal[:SHOWN])
        more = f"\n  and {len(fatal) - SHOWN} more" if len(fatal) > SHOWN else ""
        raise EngineBuildError(f"{flavour.name} cannot build {path.name}:{shown}{more}")
    notes = tuple(finding for finding in report.findings if finding not in fatal)
    remark = f"{len(summed)} FP32 products of activations are built as Mul and ReduceSum: {TURING} has no FP32 GEMM"
    return Preflight(
        path,
        report.opset,
        report.nodes,
        _inputs(model, path),
        notes,
        ModelCard.of_model(model, path.name),
        rewritten=model if summed else None,
        remarks=(remark,) if summed else (),
    )


def read_graph_file(path: Path) -> onnx.ModelProto:
    """Read a model without its large weights.

    Raises:
        OptionError: there is no such file.
        EngineBuildError: the file holds no ONNX graph with outputs.
    """
    try:
        return open_graph(path)
    except ExportError as error:
        raise EngineBuildError(str(error)) from error


def _where(graph: onnx.GraphProto) -> dict[str, str]:
    """Return the part of the model that each node belongs to, by its name, as the beginning of a line."""
    known = {node.name: place for node, place in zip(graph.node, places(graph), strict=True)}
    return {
        name: f"{place.stage}, {place.kind.value}: " if place.stage else f"{place.kind.value}: "
        for name, place in known.items()
        if place.kind is not Kind.OTHER
    }


def _inputs(model: onnx.ModelProto, path: Path) -> tuple[InputShape, ...]:
    constants = {tensor.name for tensor in model.graph.initializer}
    return tuple(_input(value, path) for value in model.graph.input if value.name not in constants)


def _input(value: onnx.ValueInfoProto, path: Path) -> InputShape:
    if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
        raise EngineBuildError(f"input {value.name!r} of {path} is not a tensor of known rank, which TensorRT needs")
    dims = value.type.tensor_type.shape.dim
    axes = (dim.dim_value if dim.dim_value > 0 else dim.dim_param or "?" for dim in dims)
    return InputShape(value.name, tuple(axes))
