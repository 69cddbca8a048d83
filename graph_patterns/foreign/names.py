"""Give new nodes and values of foreign graphs names that nothing else in the file has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import onnx_ir as ir

__all__ = ["Names"]


class Names:
    """Names of all nodes and values of a model, those of its sub-graphs included.

    Args:
        model: the model. Nodes that are added later are not known.
    """

    def __init__(self, model: ir.Model) -> None:
        nodes = list(model.graph.all_nodes())
        self._nodes = Counter(node.name for node in nodes)
        self._values = Counter(value.name for node in nodes for value in node.outputs)
        for graph in model.graphs():
            self._values.update(value.name for value in (*graph.inputs, *graph.initializers.values()))

    def unused_prefix(self, wanted: str) -> str:
        """Return `wanted`, or `wanted` with a number, so that no name in the model begins with it and a slash."""
        found, number = wanted, 1
        while any(name.startswith(f"{found}/") for name in (*self._nodes, *self._values) if name):
            number += 1
            found = f"{wanted}_{number}"
        return found

    def set_apart(self, nodes: Iterable[ir.Node]) -> None:
        """Rename nodes, and what they compute, if something else has the same name.

        The branches of an `If` may use a name more than once; the graph around them may not.
        """
        for node in nodes:
            _set_apart(node, self._nodes)
            for value in node.outputs:
                _set_apart(value, self._values)


def _set_apart(part: ir.Node | ir.Value, uses: Counter[str | None]) -> None:
    name = part.name
    if not name or uses[name] <= 1:
        return
    number = 2
    while f"{name}_{number}" in uses:
        number += 1
    uses[name] -= 1
    part.name = f"{name}_{number}"
    uses[part.name] = 1
