"""Walk all nodes of a model, with the known facts about the tensors that each sees."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import inliner, numpy_helper, shape_inference

from tofu_export.system.subgraphs import graphs_in

__all__ = [
    "DEFAULT_DOMAINS",
    "Axis",
    "Scope",
    "attribute_int",
    "attribute_ints",
    "attribute_text",
    "infer",
    "walk",
    "written_out",
]

DEFAULT_DOMAINS = ("", "ai.onnx")

Axis = int | str
"""Size of an axis; a string if it is dynamic (its name, or `?`)."""


@dataclass
class Scope:
    """Facts known at a node.

    Attributes:
        constants: tensors with a known value, by name.
        dtypes: element types (`TensorProto.DataType`), by name of the tensor.
        shapes: shapes, by name; a tensor of unknown rank is absent.
        names: names of all values that a node here can read.
        functions: (domain, name) of the functions that the file defines itself.
        opset: version of the default operator set, 0 if the file imports none.
        depth: number of enclosing sub-graphs.
        computable: names of values that depend on no input of the graph, fixed sizes included.
        results: outputs of this graph.
        makers: the node that computes a value, by its name.
        readers: operators that read a value, by its name.
    """

    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    dtypes: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, tuple[Axis, ...]] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    functions: frozenset[tuple[str, str]] = frozenset()
    opset: int = 0
    depth: int = 0
    computable: set[str] = field(default_factory=set)
    results: frozenset[str] = frozenset()
    makers: dict[str, onnx.NodeProto] = field(default_factory=dict)
    readers: dict[str, list[str]] = field(default_factory=dict)

    def inner(self) -> Scope:
        """Return a copy for a sub-graph, which inherits everything here and adds its own."""
        return replace(
            self,
            constants=dict(self.constants),
            dtypes=dict(self.dtypes),
            shapes=dict(self.shapes),
            names=set(self.names),
            computable=set(self.computable),
            makers=dict(self.makers),
            readers=dict(self.readers),
        )

    def is_computable(self, name: str) -> bool:
        """True if a value is known before the file runs, or is a missing optional input."""
        return not name or name in self.constants or name in self.computable

    def made_by(self, name: str) -> str:
        """Return the operator that computes a value, empty for inputs and constants."""
        maker = self.makers.get(name)
        return "" if maker is None else maker.op_type

    def array(self, name: str) -> npt.NDArray[Any] | None:
        """Return the value of a constant, None if it is not known, damaged, or in another file."""
        tensor = self.constants.get(name)
        if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
            return None
        try:
            return numpy_helper.to_array(tensor)
        except Exception:  # of a damaged tensor, in a module without types: TypeError, ValueError, KeyError, ...
            return None

    def number(self, name: str) -> int | None:
        """Return the value of a constant scalar (or tensor of one element), None if it is not known."""
        value = self.array(name)
        if value is None or value.size != 1 or value.dtype.kind not in "biu":
            return None
        return int(value.reshape(-1)[0])

    def dtype(self, node: onnx.NodeProto) -> int | None:
        """Return the element type of the node's first input, or of its first output, None if neither is known."""
        names = [*node.input[:1], *node.output[:1]]
        return next((self.dtypes[name] for name in names if self.dtypes.get(name)), None)

    def add(self, value: onnx.ValueInfoProto) -> None:
        """Record the type and shape of a value, as far as they are given."""
        kind = value.type.tensor_type
        if kind.elem_type:
            self.dtypes[value.name] = kind.elem_type
        if kind.HasField("shape"):
            self.shapes[value.name] = tuple(
                dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in kind.shape.dim
            )


def written_out(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with its own functions in the place of their calls, where types and shapes are known.

    Functions that are of other operator sets than the model, or damaged, stay.
    """
    if not model.functions:
        return model
    try:
        result: onnx.ModelProto = inliner.inline_local_functions(model)
    except Exception:  # of a damaged file, in a module without types
        return model
    return result


def infer(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with inferred types and shapes of its values, as far as onnx can infer them."""
    try:
        inferred: onnx.ModelProto = shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # of a damaged graph, in a module without types; what the file itself says is still known
        return model
    return inferred


def walk(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, Scope]]:
    """Yield all nodes in graph order, including those of sub-graphs and of the file's own functions."""
    functions = frozenset((function.domain, function.name) for function in model.functions)
    opset = next((int(entry.version) for entry in model.opset_import if entry.domain in DEFAULT_DOMAINS), 0)
    yield from _walk_graph(model.graph, Scope(functions=functions, opset=opset))
    for function in model.functions:
        known = set(function.input)  # their types are unknown, so nothing is reported
        opset = next((int(entry.version) for entry in function.opset_import if entry.domain in DEFAULT_DOMAINS), opset)
        yield from _walk_nodes(function.node, Scope(names=known, functions=functions, opset=opset, computable=known))


def _walk_graph(graph: onnx.GraphProto, outer: Scope) -> Iterator[tuple[onnx.NodeProto, Scope]]:
    scope = outer.inner()
    scope.results = frozenset(value.name for value in graph.output)
    for tensor in graph.initializer:
        scope.constants[tensor.name] = tensor
        scope.dtypes[tensor.name] = tensor.data_type
        scope.shapes[tensor.name] = tuple(tensor.dims)
        scope.names.add(tensor.name)
    scope.names.update(tensor.values.name for tensor in graph.sparse_initializer)
    scope.names.update(value.name for value in graph.input)
    for value in (*graph.input, *graph.value_info, *graph.output):
        scope.add(value)
    yield from _walk_nodes(graph.node, scope)


def _walk_nodes(nodes: Iterable[onnx.NodeProto], scope: Scope) -> Iterator[tuple[onnx.NodeProto, Scope]]:
    nodes = list(nodes)
    scope.names.update(name for node in nodes for name in node.output)  # runtimes accept them in any order
    for node in nodes:
        scope.makers.update(dict.fromkeys(node.output, node))
        for name in node.input:
            scope.readers[name] = [*scope.readers.get(name, ()), node.op_type]
    for node in nodes:
        if node.op_type == "Constant" and node.domain in DEFAULT_DOMAINS:
            _note_constant(node, scope)
        if _depends_on_nothing(node, scope):
            scope.computable.update(node.output)
        yield node, scope
        for attribute in node.attribute:
            for graph in graphs_in(attribute):
                yield from _walk_graph(graph, replace(scope.inner(), depth=scope.depth + 1))


def _depends_on_nothing(node: onnx.NodeProto, scope: Scope) -> bool:
    """True if the result of a node is known before the file runs."""
    if node.op_type == "Range":  # the parser does not compute it beforehand
        return False
    if node.op_type in ("Shape", "Size") and node.input:
        shape = scope.shapes.get(node.input[0])
        return shape is not None and all(isinstance(size, int) for size in shape)
    return all(scope.is_computable(name) for name in node.input)


def _note_constant(node: onnx.NodeProto, scope: Scope) -> None:
    for attribute in node.attribute:
        if attribute.name == "value":
            scope.constants[node.output[0]] = attribute.t
            scope.dtypes[node.output[0]] = attribute.t.data_type
        elif attribute.name in ("value_int", "value_ints"):
            values = attribute.ints or [attribute.i]
            scope.constants[node.output[0]] = numpy_helper.from_array(np.array(values, dtype=np.int64))


def attribute_text(node: onnx.NodeProto, name: str, default: str) -> str:
    """Return a text attribute of a node."""
    values = (a.s.decode(errors="replace") for a in node.attribute if a.name == name and not a.ref_attr_name)
    return next(values, default)


def attribute_ints(node: onnx.NodeProto, name: str) -> tuple[int, ...]:
    """Return an integer-list attribute of a node, empty if it is not set."""
    return next((tuple(a.ints) for a in node.attribute if a.name == name and not a.ref_attr_name), ())


def attribute_int(node: onnx.NodeProto, name: str) -> int | None:
    """Return an integer attribute of a node, None if it is not set."""
    return next((a.i for a in node.attribute if a.name == name and not a.ref_attr_name), None)
