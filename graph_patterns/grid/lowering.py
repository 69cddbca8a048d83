"""Replace every `tofu::GridMatch`, `GridMerge` and `GridUnmerge` by operators that every runtime accepts."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir
from onnx_ir.tape import Tape

from tofu_export.errors import LoweringError
from tofu_export.graph_patterns.canonical import DOMAIN
from tofu_export.graph_patterns.grid.match import match_grid
from tofu_export.graph_patterns.grid.merge import merge_grid, unmerge_grid
from tofu_export.graph_patterns.grid.nodes import GRID_OPERATORS, GridNode, grid_stage
from tofu_export.graph_patterns.stage import Stage, TapeOperators

__all__ = ["lower_grids"]

_METHODS = ("prune", "average", "mlerp", "tome")


def lower_grids(model: ir.Model) -> int:
    """Replace every canonical operator of a grid, in place, and return their number.

    A block may merge several times (self-attention, attention to the text, MLP): later ones get numbered names.

    Raises:
        LoweringError: a node cannot be lowered; the message names it, and says why.
    """
    found = [node for node in model.graph if node.domain == DOMAIN and node.op_type in GRID_OPERATORS]
    blocks: dict[ir.Value, str] = {}
    taken: Counter[str] = Counter()
    for node in found:
        if problem := _problem(node):
            raise LoweringError(f"node {node.name} (tofu::{node.op_type}): {problem}")
        tape = Tape()
        op = TapeOperators(tape)
        if node.op_type == "GridMatch":
            grid = GridNode.read(node)
            rows, places = match_grid(Stage(op, grid_stage(grid.block)), grid, _given(node, 0))
            lowered = [rows] if places is None else [rows, places]
            blocks[rows] = grid.block
        else:
            block = blocks[_given(node, 1)]
            name = f"{grid_stage(block)}/{node.op_type}"
            taken[name] += 1
            stage = Stage(op, grid_stage(block) + (f"/{taken[name]}" if taken[name] > 1 else ""))
            lowered = [_merge(stage, node) if node.op_type == "GridMerge" else _unmerge(stage, node)]
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], tape.nodes, node.outputs, lowered)
    return len(found)


def _merge(stage: Stage, node: ir.Node) -> ir.Value:
    places = _given(node, 2) if len(node.inputs) > 2 else None
    return merge_grid(stage, GridNode.read(node), _given(node, 0), _given(node, 1), places)


def _unmerge(stage: Stage, node: ir.Node) -> ir.Value:
    return unmerge_grid(stage, _given(node, 0), _given(node, 1))


def _given(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None  # _problem
    return value


def _problem(node: ir.Node) -> str | None:
    """Return why a node cannot be lowered, None if it can."""
    most = {"GridMatch": 1, "GridMerge": 3, "GridUnmerge": 2}[node.op_type]
    least = 2 if node.op_type == "GridMerge" else most
    if not least <= len(node.inputs) <= most or any(value is None for value in node.inputs):
        return f"it has {len(node.inputs)} inputs, see graph_patterns/grid/nodes.py"
    if node.op_type == "GridUnmerge":
        return None
    grid = GridNode.read(node)
    if grid.method not in _METHODS:
        return f"{grid.block}: unknown method {grid.method!r}"
    if not 0 < grid.removed <= grid.sources:
        return f"{grid.block}: {grid.removed} of {grid.sources} sources cannot leave"
    return None
