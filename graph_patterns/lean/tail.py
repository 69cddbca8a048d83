"""Compute only the tokens that the output reads: after the last attention, those of a class-token head.

If the head reads class tokens, all that the last block does to other tokens after its keys and values is discarded:
queries, projection, MLP, and the reduction itself. The exporter's graph computes it nevertheless. If an output says
what became of each patch, the reduction still decides, but moves no tokens.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from tofu_export.graph_patterns.canonical import DOMAIN, FuseNode

__all__ = ["narrow_tail"]

_TOKENS = 1
"""Axis of the tokens in [B, N, C]."""
_QUERIES = 2
"""Axis of the tokens in the attention's [B, H, N, D]."""

_POINTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Gelu", "Erf", "Tanh", "Sigmoid", "Relu", "Cast", "Identity"})
_FUSE = frozenset({"Fuse"})
_ATTENTION = frozenset({"Attention", "BiasedAttention"})


def narrow_tail(model: ir.Model) -> int:
    """Narrow nodes that lead only to the first tokens of a sequence to these, in place, and return their number.

    Requires: a canonical graph, sorted, whose values have shapes.
    Ensures: every graph output is unchanged. A reduction that no output depends on is left unused, and one that
        only a map depends on is left without tokens.
    """
    heads = [node for node in model.graph if _picked(node) is not None]
    if not heads:
        return 0
    width = 1 + max(index for head in heads if (index := _picked(head)) is not None)
    narrowed = _narrowable(model.graph, set(heads), width)
    if not any(node.op_type in _ATTENTION for node in narrowed):
        return 0  # a norm at most: not worth a slice
    slices: dict[tuple[ir.Value, int], ir.Value] = {}
    for node in [node for node in model.graph if node in narrowed]:
        _narrow(model.graph, node, narrowed, width, slices)
    return len(narrowed)


def _picked(node: ir.Node) -> int | None:
    """Return the last token that a node takes from the front of a sequence, by its position."""
    rows = node.inputs[0] if node.inputs else None
    if node.domain or rows is None or rows.shape is None or len(rows.shape) != 3:
        return None
    constants = [value.const_value for value in node.inputs[1:] if value is not None]
    given = [None if constant is None else constant.numpy().tolist() for constant in constants]
    last = None
    if node.op_type == "Gather" and node.attributes.get_int("axis", 0) == _TOKENS:
        last = given[0]  # a list, if several are taken
    elif node.op_type == "Slice" and (given[0], *given[2:]) in (([0], [_TOKENS]), ([0], [_TOKENS], [1])) and given[1]:
        last = given[1][0] - 1
    length = rows.shape[_TOKENS]
    return last if isinstance(last, int) and isinstance(length, int) and 0 <= last < length - 1 else None


def _narrowable(graph: ir.Graph, heads: set[ir.Node], width: int) -> set[ir.Node]:
    """Return the nodes of which only the first `width` tokens are used, and that can be computed for these alone."""
    given_out = set(graph.outputs)
    found: set[ir.Node] = set()
    for node in reversed(list(graph)):
        companions = _companions(node)
        tokens = [value for value in node.outputs if value not in companions.values()]
        uses = [use for value in tokens for use in value.uses()]
        if node in heads or not uses or not given_out.isdisjoint(tokens):
            continue
        if any(value in given_out or (name != "groups" and value.uses()) for name, value in companions.items()):
            continue
        if all(use.node in heads or (use.node in found and use.idx in _followed(use.node)) for use in uses) and _known(
            node, width
        ):
            found.add(node)
    return found


def _companions(node: ir.Node) -> dict[str, ir.Value]:
    """Return the outputs of a reduction besides tokens, by name."""
    if node.domain != DOMAIN or node.op_type not in _FUSE:
        return {}
    return dict(zip(FuseNode.companions_of(node), node.outputs[1:], strict=True))


def _known(node: ir.Node, width: int) -> bool:
    """True if the first tokens of a node's output follow from the first tokens of its inputs."""
    shape = node.outputs[0].shape
    if shape is None:
        return False
    if node.domain == DOMAIN and node.op_type in _FUSE:
        return node.attributes["prefix"].as_int() >= width
    if node.domain == DOMAIN and node.op_type in _ATTENTION:
        return True
    if node.op_type == "Transpose":  # the heads behind the tokens again
        return tuple(node.attributes["perm"].as_ints()) == (0, 2, 1, 3) and _fed_by(node, _ATTENTION)
    if len(shape) != 3:
        return False
    if node.op_type in _POINTWISE:
        return all(_in_step(value, shape) for value in node.inputs)
    if node.op_type == "LayerNormalization":
        return node.attributes.get_int("axis", -1) in (-1, 2)
    if node.op_type == "Split":
        return node.attributes.get_int("axis", 0) in (-1, 2)
    if node.op_type == "MatMul":
        weight = node.inputs[1]
        return weight is not None and weight.shape is not None and len(weight.shape) == 2
    if node.op_type == "Reshape":  # the heads side by side
        target = node.inputs[1]
        return _fed_by(node, {"Transpose"}) and target is not None and target.const_value is not None
    return False


def _fed_by(node: ir.Node, kinds: frozenset[str] | set[str]) -> bool:
    value = node.inputs[0]
    producer = value.producer() if value is not None else None
    return producer is not None and producer.op_type in kinds


def _in_step(value: ir.Value | None, shape: ir.Shape) -> bool:
    """True for a sequence as long as the output, and for a value that is the same for all tokens."""
    if value is None or value.shape is None or len(value.shape) > 3:
        return False
    return len(value.shape) < 2 or value.shape[-2] in (1, shape[_TOKENS])


def _followed(node: ir.Node) -> tuple[int, ...]:
    """Return the inputs whose tokens are those of the output."""
    if node.op_type == "BiasedAttention":
        return (0, 3)
    return tuple(range(len(node.inputs))) if node.op_type in _POINTWISE else (0,)


def _narrow(
    graph: ir.Graph,
    node: ir.Node,
    narrowed: set[ir.Node],
    width: int,
    slices: dict[tuple[ir.Value, int], ir.Value],
) -> None:
    """Rewrite one node, after those before it."""
    for index in _followed(node):
        value = node.inputs[index]
        assert value is not None and value.shape is not None  # _known
        axis = len(value.shape) - 2
        if value.producer() in narrowed or axis < 0 or value.shape[axis] == 1:
            continue
        if (value, axis) not in slices:
            slices[value, axis] = _slice(graph, node, value, axis, width)
        node.replace_input_with(index, slices[value, axis])
    if node.op_type in _FUSE:  # the prefix passes through unchanged
        first = node.inputs[0]
        assert first is not None
        ir.convenience.replace_all_uses_with(node.outputs[0], first)
        groups = _companions(node).get("groups")
        if groups is not None and groups.uses():
            _map_alone(graph, node, groups)
        return
    if node.op_type == "Reshape":
        target = node.inputs[1]
        assert target is not None and target.const_value is not None  # _known
        sizes = target.const_value.numpy().copy()
        sizes[_TOKENS] = width
        node.replace_input_with(1, _constant(graph, node, f"{node.name}/narrowed/shape", sizes))
    axis = _QUERIES if node.op_type in _ATTENTION else _TOKENS
    for out in node.outputs:
        if out.shape is not None:
            out.shape = ir.Shape([width if place == axis else size for place, size in enumerate(out.shape)])


def _map_alone(graph: ir.Graph, node: ir.Node, groups: ir.Value) -> None:
    """Replace a reduction of which only `groups` is read by one that moves no tokens."""
    groups_in = FuseNode.companions_of(node)["groups"]
    unread = [*FuseNode.companions_of(node).values(), node.inputs[0]]
    inputs = [None if value is not groups_in and value in unread else value for value in node.inputs]
    alone = ir.Node(DOMAIN, node.op_type, inputs, node.attributes.values(), num_outputs=2, name=node.name)
    for old, new in zip((node.outputs[0], groups), alone.outputs, strict=True):
        new.type, new.shape = old.type, old.shape
    graph.insert_before(node, alone)
    ir.convenience.replace_all_uses_with(groups, alone.outputs[1])


def _slice(graph: ir.Graph, node: ir.Node, value: ir.Value, axis: int, width: int) -> ir.Value:
    name = f"{node.name}/first"
    bounds = [_constant(graph, node, f"{name}/{kind}", np.array([at])) for kind, at in _bounds(width, axis)]
    first = ir.Node("", "Slice", [value, *bounds], name=name)
    graph.insert_before(node, first)
    (out,) = first.outputs
    out.name = name
    if value.dtype is not None:
        out.dtype = value.dtype
    assert value.shape is not None
    out.shape = ir.Shape([width if place == axis else size for place, size in enumerate(value.shape)])
    return out


def _bounds(width: int, axis: int) -> tuple[tuple[str, int], ...]:
    return (("start", 0), ("stop", width), ("axis", axis))


def _constant(graph: ir.Graph, node: ir.Node, name: str, array: np.ndarray) -> ir.Value:
    constant = ir.Node("", "Constant", [], [ir.AttrTensor("value", ir.tensor(array.astype(np.int64)))], name=name)
    graph.insert_before(node, constant)
    constant.outputs[0].name = name
    return constant.outputs[0]
