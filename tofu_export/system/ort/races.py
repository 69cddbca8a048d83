"""Graphs that onnxruntime computes right on one thread alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from tofu_export.system.subgraphs import graphs_in

if TYPE_CHECKING:
    import onnx

__all__ = ["exact_threads"]


def exact_threads(model: onnx.ModelProto) -> int | None:
    """Return the number of threads that a graph needs to be computed right, None if any will do.

    The threads of a `ScatterND` with a reduction share the updates, without a lock: of two that join one place at the
    same time, one may be lost.

    Source: https://github.com/microsoft/onnxruntime/issues/18048 and 23396; seen with onnxruntime 1.31.1, CPU provider.
    """
    bodies = (model.graph.node, *(function.node for function in model.functions))
    return 1 if any(_reduces(node) for nodes in bodies for node in _all_nodes(nodes)) else None


def _reduces(node: onnx.NodeProto) -> bool:
    return node.op_type == "ScatterND" and any(
        attribute.name == "reduction" and attribute.s != b"none" for attribute in node.attribute
    )


def _all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in graphs_in(attribute):
                yield from _all_nodes(graph.node)
