"""Graphs inside the nodes of an ONNX model: branches of `If`, bodies of `Loop` and `Scan`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

__all__ = ["graphs_in"]


def graphs_in(attribute: onnx.AttributeProto) -> tuple[onnx.GraphProto, ...]:
    """Return the graphs that an attribute of a node holds."""
    return (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else []))
