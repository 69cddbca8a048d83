"""Check the file around the graph: readable, complete, within its folder, and its format version."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx

from tofu_export.artifact.external import leaves_folder, tensors_of
from tofu_export.artifact.onnx_file import load_without_weights
from tofu_export.errors import ExportError
from tofu_export.graph_patterns.foreign.sparse import sparse_names
from tofu_export.linting.facts import MEASURED_ORT, MEASURED_RTX
from tofu_export.linting.finding import Finding, Runtime, Severity
from tofu_export.system.files import require_file
from tofu_export.system.subgraphs import graphs_in

__all__ = ["MAX_IR_VERSION", "MAX_OPSET", "MAX_PROTOBUF_BYTES", "default_opset", "file_findings", "open_graph"]

MAX_OPSET = 26
"""Newest opset of the default domain that onnxruntime 1.31.1 loads and that the facts know."""

MAX_IR_VERSION = 13
"""Newest version of the file format that onnxruntime 1.31.1 loads."""

MAX_PROTOBUF_BYTES = 2**31 - 1
"""Largest size of a protocol buffer, and so of a file with its weights inside."""

_8_BITS = (onnx.TensorProto.UINT8, onnx.TensorProto.INT8)
_ALL = tuple(Runtime)
_TENSORRT = (Runtime.TENSORRT, Runtime.TENSORRT_RTX)
_MEASURED = f"{MEASURED_ORT}; {MEASURED_RTX}"


def open_graph(path: Path) -> onnx.ModelProto:
    """Read a model without its large weights.

    Raises:
        OptionError: the file does not exist.
        ExportError: the file holds no ONNX graph with outputs.
    """
    require_file(path, "an ONNX file")
    size = path.stat().st_size
    if size == 0:
        raise ExportError(f"{path} holds no graph (0 bytes), expected an exported ONNX model")
    model = load_without_weights(path)
    if not model.HasField("graph") or not model.graph.node:
        raise ExportError(f"{path} holds no graph ({size} bytes), expected an exported ONNX model")
    if not all(isinstance(text, str) for text in _texts(model)):  # protobuf gives bytes where they are not UTF-8
        raise ExportError(f"{path} holds a name that is not text: it is damaged, copy or export it again")
    if not model.graph.output:
        raise ExportError(f"{path} has a graph without outputs: nothing would be computed")
    return model


def default_opset(model: onnx.ModelProto) -> int | None:
    """Return the version of the default operator set, None if the file imports none."""
    return next((int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None)


def file_findings(model: onnx.ModelProto, path: Path) -> Iterator[Finding]:
    """Yield the findings about the file as a whole, for all runtimes."""
    yield from _versions(model)
    if path.stat().st_size > MAX_PROTOBUF_BYTES:
        yield Finding(
            "over-2-gb", Severity.ERROR, _ALL, "all",
            f"the file has {path.stat().st_size / 2**30:.1f} GiB, and a protocol buffer cannot have 2 GiB",
            "save its weights as external data", _MEASURED,
        )  # fmt: skip
    yield from _external_data(model, path)
    for value in (*model.graph.input, *model.graph.output):
        kind = value.type.WhichOneof("value")
        if kind not in (None, "tensor_type"):
            yield Finding(
                "not-a-tensor", Severity.ERROR, (Runtime.TENSORRT_RTX,), "1.7",
                f"{value.name!r} is a {kind.removesuffix('_type').replace('_', ' ')}, expected a tensor",
                "export it with a tensor in its place", MEASURED_RTX,
            )  # fmt: skip
    if sparse := sparse_names(model):
        yield Finding(
            "sparse-initializer", Severity.ERROR, _TENSORRT, "all; RTX 1.7",
            f"the weights {', '.join(sparse)} are sparse, which the parser does not read",
            "let `tofu-export lower` write them out", MEASURED_RTX,
        )  # fmt: skip
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        axes = [str(index) for index, dim in enumerate(dims) if index and not dim.HasField("dim_value")]
        if axes:
            yield Finding(
                "dynamic-axis", Severity.NOTE, _TENSORRT, "all",
                f"input {value.name!r} leaves more than its batch open (axis {', '.join(axes)})",
                "give --min-shapes, --opt-shapes and --max-shapes when building", _MEASURED,
            )  # fmt: skip
    if _makes_8_bit_integers(model):
        yield Finding(
            "int8-overflow", Severity.NOTE, (Runtime.ONNXRUNTIME,), "1.23 to 1.31",
            "products of 8-bit numbers overflow on x86-64 CPUs without VNNI, where pairs of them are added in 16 bits",
            'there, give the session add_session_config_entry("session.x64quantprecision", "1")',
            f"{MEASURED_ORT} of a CPU with AVX2; docs/decisions/012-int8.md",
        )  # fmt: skip


def _versions(model: onnx.ModelProto) -> Iterator[Finding]:
    opset, newest = default_opset(model), onnx.defs.onnx_opset_version()
    if opset is None:
        yield Finding(
            "no-opset", Severity.ERROR, _ALL, "all", "the file imports no default operator set",
            "it is damaged, export it again", _MEASURED,
        )  # fmt: skip
    elif not 1 <= opset <= MAX_OPSET:
        told = _ALL if not 1 <= opset <= newest else (Runtime.ONNXRUNTIME,)  # TensorRT takes a newer one for its newest
        yield Finding(
            "opset", Severity.ERROR, told, "onnxruntime 1.31; TensorRT takes it for the newest one it knows",
            f"the file uses opset {opset}, expected 1 to {MAX_OPSET}", "export it with a lower --opset", _MEASURED,
        )  # fmt: skip
    if model.ir_version > MAX_IR_VERSION:
        yield Finding(
            "ir-version", Severity.ERROR, (Runtime.ONNXRUNTIME,), "1.31",
            f"the file has format version (IR) {model.ir_version}, expected at most {MAX_IR_VERSION}",
            "save it with an older onnx, or lower ir_version", MEASURED_ORT,
        )  # fmt: skip


def _external_data(model: onnx.ModelProto, path: Path) -> Iterator[Finding]:
    needed: dict[str, int] = {}
    for tensor in tensors_of(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            location = entries.get("location", "")
            try:
                end = int(entries.get("offset", 0)) + int(entries.get("length", 0))
            except ValueError as error:
                raise ExportError(f"{path} is damaged: {tensor.name!r} lies at {entries}, expected numbers") from error
            needed[location] = max(end, needed.get(location, 0))
    folder = path.absolute().parent
    for location, size in needed.items():
        data = folder / location
        if leaves_folder(location):
            yield Finding(
                "external-data-outside", Severity.ERROR, _ALL, "all",
                f"the file keeps weights in {location!r}, which is not inside its folder",
                "do not load it unless you trust it; move the weights beside the file", _MEASURED,
            )  # fmt: skip
        elif not data.is_file():
            yield Finding(
                "external-data-missing", Severity.ERROR, _ALL, "all",
                f"the file keeps weights in {location!r}, which is not beside it", "copy both files", _MEASURED,
            )  # fmt: skip
        elif not data.resolve().is_relative_to(folder.resolve()):
            yield Finding(
                "external-data-link", Severity.ERROR, (Runtime.ONNXRUNTIME,), "1.31",
                f"{location!r} with the weights is a link to a place outside of the folder", "copy the weights there",
                MEASURED_ORT,
            )  # fmt: skip
        elif data.stat().st_size < size:
            yield Finding(
                "external-data-cut", Severity.ERROR, _ALL, "all",
                f"{location!r} has {data.stat().st_size} bytes, but the file needs {size}",
                "it was cut, copy it again", _MEASURED,
            )  # fmt: skip


def _makes_8_bit_integers(model: onnx.ModelProto) -> bool:
    """True if the file rounds activations to int8 or uint8, as files that multiply in it do."""
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for node in (*model.graph.node, *(node for function in model.functions for node in function.node)):
        zero_point = "".join(node.input[2:3])  # uint8 where there is none
        if node.op_type == "QuantizeLinear" and types.get(zero_point, onnx.TensorProto.UINT8) in _8_BITS:
            return True
        if node.op_type == "DynamicQuantizeLinear":
            return True
    return False


def _texts(model: onnx.ModelProto) -> Iterator[object]:
    """Yield all names of a model that messages may quote."""
    for entry in model.metadata_props:
        yield from (entry.key, entry.value)
    for opset in model.opset_import:
        yield opset.domain
    for function in model.functions:
        yield from (function.name, function.domain, *function.input)
        yield from _node_texts(function.node)
    yield from _graph_texts(model.graph)


def _graph_texts(graph: onnx.GraphProto) -> Iterator[object]:
    for value in (*graph.input, *graph.output, *graph.value_info):
        yield value.name
        yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)
    for tensor in graph.initializer:
        yield tensor.name
        for entry in tensor.external_data:
            yield from (entry.key, entry.value)
    yield from _node_texts(graph.node)


def _node_texts(nodes: Iterable[onnx.NodeProto]) -> Iterator[object]:
    for node in nodes:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        for entry in node.metadata_props:
            yield from (entry.key, entry.value)
        for attribute in node.attribute:
            yield attribute.name
            for inner in graphs_in(attribute):
                yield from _graph_texts(inner)
