"""Findings of onnx's own checker and of onnxruntime: neither rejects a file that the lint passes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from tofu_export.artifact.widened import BFLOAT16, retype
from tofu_export.errors import BackendMissingError
from tofu_export.graph_patterns.foreign.sparse import pop_sparse_initializers
from tofu_export.linting.finding import Finding, Runtime, Severity
from tofu_export.linting.graph import infer
from tofu_export.system.files import is_text
from tofu_export.system.ort import rejection

__all__ = ["checker_findings", "onnxruntime_findings"]

_UNKNOWN_OPERATOR = "No Op registered for"
_NO_BFLOAT16 = "has unsupported type: tensor(bfloat16)"
"""Of the checker, on operators that are older than their BF16: Conv before opset 22, say. TensorRT takes them in every
opset, so the rest of such a file is checked with another type in its place."""
_LONGEST = 300


def checker_findings(model: onnx.ModelProto) -> Iterator[Finding]:
    """Yield the findings of `onnx.checker.check_model(full_check=True)`, without external weights.

    The checker requires a shape of every input and output, which no runtime does: that is a note.
    """
    copy = _without_external(model)
    unknown = [value.name for value in (*model.graph.input, *model.graph.output) if _has_no_shape(value)]
    if unknown:
        copy = infer(copy)
    if any(_has_no_shape(value) for value in (*copy.graph.input, *copy.graph.output)):
        yield Finding(
            "without-shape", Severity.NOTE, tuple(Runtime), "all",
            f"{', '.join(unknown)} have no shape, which onnx's checker asks for",
            "export it again if a tool refuses it", "onnx.checker",
        )  # fmt: skip
        return
    reason = _rejection(copy)
    if _NO_BFLOAT16 in reason:
        yield _invalid(reason, (Runtime.ONNXRUNTIME,), "export it for another precision")
        retype(copy, BFLOAT16, onnx.TensorProto.FLOAT16)
        reason = _rejection(copy)
    if reason and not _rejection(_tidied(copy)):
        yield Finding(
            "untidy", Severity.WARNING, tuple(Runtime), "all",
            f"onnx's checker rejects it, which no runtime does: {_short(reason)}",
            "sort its nodes, and infer its shapes again, if a tool refuses it", "onnx.checker, full_check=True",
        )  # fmt: skip
    elif reason:
        plugin = _UNKNOWN_OPERATOR in reason  # which classic TensorRT may have
        runtimes = tuple(entry for entry in Runtime if not plugin or entry is not Runtime.TENSORRT)
        yield _invalid(reason, runtimes, "export it again")


def onnxruntime_findings(model: onnx.ModelProto, path: Path, found: Sequence[Finding]) -> Iterator[Finding]:
    """Yield the error of onnxruntime if it does not load the file and nothing in `found` explains it.

    onnxruntime opens no path that is not UTF-8, which is no fault of the file: then it is not asked.
    """
    if not is_text(path) or any(
        entry.severity is Severity.ERROR and Runtime.ONNXRUNTIME in entry.runtimes for entry in found
    ):
        return
    try:
        reason = rejection(model, path)
    except BackendMissingError:
        return
    if reason:
        yield Finding(
            "not-loaded", Severity.ERROR, (Runtime.ONNXRUNTIME,), "the one that is installed, CPU provider",
            f"onnxruntime does not load it: {_short(reason)}", "export it again, or for another precision or opset",
            "asked of onnxruntime",
        )  # fmt: skip


def _tidied(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model with its nodes in order, and without sizes of the values in between, which runtimes infer again."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in copy.graph.value_info:
        value.type.tensor_type.ClearField("shape")
    try:
        graph = ir.from_proto(copy)
        common.TopologicalSortPass()(graph)
        result: onnx.ModelProto = ir.to_proto(graph)
    except Exception:  # of onnx_ir, on a damaged graph
        return model
    return result


def _rejection(model: onnx.ModelProto) -> str:
    """Return why the checker rejects a model, empty if it does not."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # of a module without types: ValidationError, InferenceError, TypeError
        return " ".join(str(error).split())
    return ""


def _invalid(reason: str, runtimes: tuple[Runtime, ...], fix: str) -> Finding:
    message = f"onnx's checker rejects it: {_short(reason)}"
    return Finding("invalid", Severity.ERROR, runtimes, "all", message, fix, "onnx.checker, full_check=True")


def _has_no_shape(value: onnx.ValueInfoProto) -> bool:
    return value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape")


def _without_external(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model with external weights, which the checker would look for, and sparse ones as inputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    given = {value.name for value in copy.graph.input}
    outside = [tensor for tensor in copy.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    for tensor in outside:
        if tensor.name not in given:
            value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            copy.graph.input.append(value)
        copy.graph.initializer.remove(tensor)
    for sparse in pop_sparse_initializers(copy):  # of which shape inference takes the rank for 0
        kind = sparse.values.data_type
        copy.graph.input.append(onnx.helper.make_tensor_value_info(sparse.values.name, kind, list(sparse.dims)))
    return copy


def _short(reason: str) -> str:
    tidy = re.sub(r"^\[\w+\] ", "", reason).rstrip(". ")
    return tidy if len(tidy) <= _LONGEST else f"{tidy[: _LONGEST - 3]}..."
