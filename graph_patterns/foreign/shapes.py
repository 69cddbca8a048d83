"""Infer shapes of foreign graphs from their inputs, which counts more than what a file states of a value in between.

Tools that change the sizes of an input, to leave its batch open for example, often leave the old sizes of all other
values in the file. onnxruntime warns of them and goes on.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir
from onnx_ir.passes import common

__all__ = ["Stated", "infer", "infer_from_inputs", "values_of"]

Stated = dict[ir.Value, tuple[ir.TypeProtocol | None, ir.Shape | None]]
"""Type and shape that a file states, by value."""

infer = common.ShapeInferencePass(check_type=False, strict_mode=False)


def infer_from_inputs(model: ir.Model) -> Stated:
    """Infer all shapes, and return the types and shapes that the file states of the values that it computes.

    A stated shape that contradicts the inputs is not among them, except that of an output of the graph. Sizes that
    cannot be inferred are those that the file states.
    """
    stated: Stated = {value: (value.type, value.shape) for value in values_of(model)}
    named = {dim.value for value in model.graph.inputs for dim in value.shape or () if isinstance(dim, ir.SymbolicDim)}
    for value in stated:
        value.shape = None
    infer(model)
    for value, (kind, shape) in list(stated.items()):
        found = value.shape
        value.shape = _joined(shape, found, named)
        if not value.is_graph_output() and _contradict(shape, found, named):
            stated[value] = kind, None
    infer(model)  # what was stated may tell more of others
    return stated


def values_of(model: ir.Model) -> Iterator[ir.Value]:
    """Yield all values that a graph or a sub-graph computes."""
    for node in model.graph.all_nodes():
        yield from node.outputs


def _joined(stated: ir.Shape | None, found: ir.Shape | None, named: set[str | None]) -> ir.Shape | None:
    """Return the inferred sizes, and in the place of those that inference has no name for the stated ones."""
    if stated is None or found is None or len(stated) != len(found):
        return stated if found is None else found
    return ir.Shape([new if _is_known(new, named) else old for old, new in zip(stated, found, strict=True)])


def _contradict(stated: ir.Shape | None, found: ir.Shape | None, named: set[str | None]) -> bool:
    if stated is None or found is None:
        return False
    return len(stated) != len(found) or any(
        isinstance(old, int) and old != new and _is_known(new, named) for old, new in zip(stated, found, strict=True)
    )


def _is_known(size: int | ir.SymbolicDim, named: set[str | None]) -> bool:
    """True for a number and for the name of an input's size, and not for a name that inference has made up."""
    return isinstance(size, int) or (size.value is not None and size.value in named)
