"""Find and write out sparse tensors, in foreign graphs, as TensorRT does not support them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from tofu_export.system.subgraphs import graphs_in

__all__ = ["pop_sparse_initializers", "sparse_names", "write_out_sparse"]


def sparse_names(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the names of all sparse initializers and constants of a model, those of sub-graphs included."""
    initializers = [sparse.values.name for graph in _graphs(model) for sparse in graph.sparse_initializer]
    return (*initializers, *(node.output[0] for node, _ in _constants(model)))


def write_out_sparse(model: onnx.ModelProto) -> tuple[str, ...]:
    """Replace all sparse initializers and constants of a model by dense ones, and return their names."""
    names = sparse_names(model)
    for graph in _graphs(model):
        for sparse in graph.sparse_initializer:
            graph.initializer.append(_dense(sparse, sparse.values.name))
        del graph.sparse_initializer[:]
    for node, attribute in _constants(model):
        dense = _dense(attribute.sparse_tensor, node.output[0])
        attribute.CopyFrom(onnx.helper.make_attribute("value", dense))
    return names


def pop_sparse_initializers(model: onnx.ModelProto) -> list[onnx.SparseTensorProto]:
    """Remove all sparse initializers from a model, and return them."""
    found = []
    for graph in _graphs(model):
        found += list(graph.sparse_initializer)
        del graph.sparse_initializer[:]
    return found


def _dense(sparse: onnx.SparseTensorProto, name: str) -> onnx.TensorProto:
    values, places = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), dtype=values.dtype)
    flat = places if places.ndim == 1 else np.ravel_multi_index(tuple(places.T), dense.shape)
    dense.reshape(-1)[flat] = values
    return numpy_helper.from_array(dense, name)


def _constants(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, onnx.AttributeProto]]:
    """Yield all nodes that give a sparse constant, with the attribute that holds it."""
    bodies = [graph.node for graph in _graphs(model)] + [function.node for function in model.functions]
    for node in (node for nodes in bodies for node in nodes):
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.SPARSE_TENSOR:
                yield node, attribute


def _graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """Yield the graph of a model and all sub-graphs, those of functions included."""
    yield model.graph
    yield from _inner_graphs(model.graph.node)
    for function in model.functions:
        yield from _inner_graphs(function.node)


def _inner_graphs(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    for node in nodes:
        for attribute in node.attribute:
            for graph in graphs_in(attribute):
                yield graph
                yield from _inner_graphs(graph.node)
