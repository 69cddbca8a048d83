"""The nodes that TensorRT is known to refuse, as a table of checks.

Source: measured with TensorRT-RTX 1.7.1 in FP32, FP16 and BF16 over SM75 to SM121; for classic TensorRT only what
its own documentation or sources state. A check that stops applying with a newer version goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import numpy_helper

from tofu_export.engines.flavours import RTX, TENSORRT, Flavour

__all__ = ["CHECKS", "MAX_TOPK", "Check", "Finding", "Scope", "find_rejections"]

MAX_TOPK = 3840
"""Largest K of a TopK, in every TensorRT flavour."""

BOTH = (RTX.name, TENSORRT.name)
RTX_ONLY = (RTX.name,)


@dataclass(frozen=True)
class Finding:
    """Something about one node; `fatal` where the build cannot succeed."""

    node: str
    op_type: str
    message: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"node {self.node!r} ({self.op_type}): {self.message}"


@dataclass
class Scope:
    """What is known of the tensors that a node sees: constants by name, element types by name."""

    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    dtypes: dict[str, int] = field(default_factory=dict)

    def number(self, name: str) -> int | None:
        """The value of a constant scalar (or tensor of one element), None if it is not known."""
        tensor = self.constants.get(name)
        if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
            return None
        value = numpy_helper.to_array(tensor)
        return int(value.reshape(-1)[0]) if value.size == 1 else None

    def dtype(self, node: onnx.NodeProto) -> int | None:
        """Element type of the node's first input, or of its first output, None if neither is written in the file."""
        names = [*node.input[:1], *node.output[:1]]
        return next((self.dtypes[name] for name in names if name in self.dtypes), None)


@dataclass(frozen=True)
class Check:
    """One row: which operators, where it applies, and what is wrong (None: nothing).

    Attributes:
        op_types: operators of the default domain that it looks at.
        flavours: names of the flavours that it holds for.
        problem: the message for a node, or None.
        fatal: False for a remark.
    """

    op_types: tuple[str, ...]
    flavours: tuple[str, ...]
    problem: Callable[[onnx.NodeProto, Scope], str | None]
    fatal: bool = True


def _reduces(node: onnx.NodeProto, scope: Scope) -> str | None:
    reduction = _text(node, "reduction", "none")
    if reduction == "none":
        return None
    return f"reduction {reduction!r} is not supported; use a one-hot MatMul (sum, mean) or a masked ReduceMax instead"


def _k_too_large(node: onnx.NodeProto, scope: Scope) -> str | None:
    k = scope.number(node.input[1]) if len(node.input) > 1 else _int(node, "k")
    if k is None or k <= MAX_TOPK:
        return None
    return f"K is {k}, TensorRT allows at most {MAX_TOPK}; take the complement of a smaller TopK instead"


def _always(node: onnx.NodeProto, scope: Scope) -> str | None:
    return "is not supported by this builder; compute it before export, or by other operators (TopK, Gather, Where)"


def _antialias(node: onnx.NodeProto, scope: Scope) -> str | None:
    return "antialias is not supported; resize before export, or without antialias" if _int(node, "antialias") else None


def _softmax_precision(node: onnx.NodeProto, scope: Scope) -> str | None:
    named = any(attribute.name == "softmax_precision" for attribute in node.attribute)
    return "attribute softmax_precision is not supported; leave it out" if named else None


def _fp32_attention(node: onnx.NodeProto, scope: Scope) -> str | None:
    if scope.dtype(node) != onnx.TensorProto.FLOAT:
        return None
    return "has no fused FP32 kernel: it is marked decomposable and runs as several kernels"


def _not_in_bf16(node: onnx.NodeProto, scope: Scope) -> str | None:
    if scope.dtype(node) != onnx.TensorProto.BFLOAT16:
        return None
    return "is not supported in BF16; cast to FP32 around it, or decompose it"


CHECKS: tuple[Check, ...] = (
    Check(("ScatterElements",), RTX_ONLY, _reduces),
    Check(("ScatterND",), BOTH, _reduces),
    Check(("TopK",), BOTH, _k_too_large),
    Check(("NonZero", "Compress", "Unique", "DFT", "Det"), RTX_ONLY, _always),
    Check(("Resize",), RTX_ONLY, _antialias),
    Check(("Attention",), RTX_ONLY, _softmax_precision),
    Check(("Attention",), RTX_ONLY, _fp32_attention, fatal=False),
    Check(
        ("LpNormalization", "HardSwish", "Mish", "RandomNormalLike", "RandomUniformLike"),
        RTX_ONLY,
        _not_in_bf16,
    ),
)


def find_rejections(model: onnx.ModelProto, flavour: Flavour) -> tuple[int, tuple[Finding, ...]]:
    """Number of nodes in the model, and what the table says about them, in graph order."""
    checks = [check for check in CHECKS if flavour.name in check.flavours]
    count = 0
    findings: list[Finding] = []
    for node, scope in _walk(model):
        count += 1
        name = node.name or f"the one that computes {', '.join(node.output)}"
        if node.domain == "tofu":
            message = "is a canonical Token Fusion node, which no runtime knows: lower the file for a target first"
            findings.append(Finding(name, f"tofu::{node.op_type}", message))
        elif node.domain in ("", "ai.onnx"):
            problems = [(check, check.problem(node, scope)) for check in checks if node.op_type in check.op_types]
            findings.extend(Finding(name, node.op_type, text, check.fatal) for check, text in problems if text)
    return count, tuple(findings)


def _walk(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, Scope]]:
    yield from _walk_graph(model.graph, Scope())
    for function in model.functions:
        yield from _walk_nodes(function.node, Scope())


def _walk_graph(graph: onnx.GraphProto, outer: Scope) -> Iterator[tuple[onnx.NodeProto, Scope]]:
    scope = Scope(dict(outer.constants), dict(outer.dtypes))
    for tensor in graph.initializer:
        scope.constants[tensor.name] = tensor
        scope.dtypes[tensor.name] = tensor.data_type
    for value in (*graph.input, *graph.value_info, *graph.output):
        scope.dtypes[value.name] = value.type.tensor_type.elem_type
    yield from _walk_nodes(graph.node, scope)


def _walk_nodes(nodes: Iterable[onnx.NodeProto], scope: Scope) -> Iterator[tuple[onnx.NodeProto, Scope]]:
    for node in nodes:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            _note_constant(node, scope)
        yield node, scope
        for attribute in node.attribute:
            for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _walk_graph(graph, scope)


def _note_constant(node: onnx.NodeProto, scope: Scope) -> None:
    for attribute in node.attribute:
        if attribute.name == "value":
            scope.constants[node.output[0]] = attribute.t
        elif attribute.name in ("value_int", "value_ints"):
            values = attribute.ints or [attribute.i]
            scope.constants[node.output[0]] = numpy_helper.from_array(np.array(values, dtype=np.int64))


def _text(node: onnx.NodeProto, name: str, default: str) -> str:
    return next((a.s.decode() for a in node.attribute if a.name == name and not a.ref_attr_name), default)


def _int(node: onnx.NodeProto, name: str) -> int | None:
    return next((a.i for a in node.attribute if a.name == name and not a.ref_attr_name), None)
