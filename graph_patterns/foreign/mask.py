"""Rewrite masked writes in foreign graphs: `x[mask] = value`, without a list of positions of unknown length.

Exporters write a `ScatterND` at the positions that a `NonZero` of the mask lists. If the written value depends only on
the position, a `Where` over all positions does the same, and TensorRT-RTX supports it.

A value [K, ..] with one entry per listed position is called compact here; only the runtime knows K.
"""

from __future__ import annotations

import onnx_ir as ir

from tofu_export.graph_patterns.foreign.proofs import proved_same
from tofu_export.graph_patterns.foreign.values import REAL, axes_of, constant_of, made_by
from tofu_export.graph_patterns.stage import Stage

__all__ = ["listed_mask", "lower_masked"]

_ELEMENTWISE = frozenset(
    {"Abs", "Add", "Cast", "Clip", "Div", "Exp", "Log", "Max", "Min", "Mul", "Neg", "Pow", "Relu", "Sigmoid", "Sqrt",
     "Sub", "Tanh"}
)  # fmt: skip
_LAYOUT = ("Identity", "Reshape", "Expand", "Slice")
"""Operators by which exporters shape updates like the list of positions, complete and in order."""

_UNSQUEEZE_INPUT = 13
"""Opset from which the axes of `Unsqueeze` are an input."""


def listed_mask(index: ir.Value | None) -> ir.Value | None:
    """Return the mask whose nonzero positions `index` [K, rank] lists, None if it lists something else."""
    turned = made_by(index, "Transpose")
    if turned is None or list(turned.attributes.get_ints("perm", [1, 0])) != [1, 0]:
        return None
    listed = made_by(turned.inputs[0], "NonZero")
    return None if listed is None else listed.inputs[0]


def lower_masked(stage: Stage, node: ir.Node, opset: int) -> ir.Value | str:
    """Return the replacement for a `ScatterND` that overwrites where a mask is set, or why there is none.

    Args:
        stage: stage to add nodes to.
        node: x [..], index [K, depth] of `listed_mask`, updates [K, ..].
        opset: opset of the graph.
    """
    data, index, updates = node.inputs[:3]
    mask = listed_mask(index)
    if data is None or updates is None or data.shape is None or mask is None or mask.shape is None:
        return "the shapes of its input and of its mask are not in the file"
    rank, depth = len(data.shape), len(mask.shape)
    if not proved_same(mask.shape, data.shape[:depth]) and not _takes_the_shape_of(data, mask):
        return "its mask is not known to be as large as what it writes to"
    origin = _origin(mask)
    assert origin.shape is not None  # of the mask, or of something that `_origin` looked into
    spread = _Spread(stage, data, origin, rank - len(origin.shape)).laid_out(updates)
    if spread is None:
        return "what it writes through a mask depends on more than the place it is written to"
    full = mask if mask.dtype == ir.DataType.BOOL else stage.add("Cast", "mask", mask, to=int(ir.DataType.BOOL))
    if behind := list(range(depth, rank)):
        full = (stage.add("Unsqueeze", "mask/all", full, axes=behind) if opset < _UNSQUEEZE_INPUT
                else stage.add("Unsqueeze", "mask/all", full, stage.ints("mask/axes", *behind)))  # fmt: skip
    return stage.add("Where", "masked", full, spread, data)


def _takes_the_shape_of(data: ir.Value, mask: ir.Value) -> bool:
    """True if a mask is expanded to the shape of the tensor, which shape inference cannot determine up to opset 12."""
    expand = made_by(mask, "Expand")
    shape = None if expand is None else made_by(expand.inputs[1], "Shape")
    return shape is not None and shape.inputs[0] is data and not shape.attributes


def _origin(mask: ir.Value) -> ir.Value:
    """Return the mask before it was expanded over further axes after its own."""
    expand = made_by(mask, "Expand")
    value = mask if expand is None else expand.inputs[0]
    node = made_by(value, "Unsqueeze")
    if value is None or value.shape is None or node is None or node.inputs[0] is None or node.inputs[0].shape is None:
        return mask
    rank, before = len(value.shape), len(node.inputs[0].shape)
    behind = axes_of(node, rank) == list(range(before, rank))
    return node.inputs[0] if behind and mask.shape is not None and rank == len(mask.shape) else mask


class _Spread:
    """Converter of compact values to values for all positions.

    Args:
        stage: stage to add nodes to.
        data: tensor that is written to.
        origin: mask.
        behind: axes of the tensor after those of the mask.
    """

    def __init__(self, stage: Stage, data: ir.Value, origin: ir.Value, behind: int) -> None:
        self._stage = stage
        self._data = data
        self._origin = origin
        self._behind = behind

    def laid_out(self, value: ir.Value | None) -> ir.Value | None:
        """Convert updates as `of` does, after removing the operators that only shape them."""
        while value is not None and not self._same_everywhere(value):
            node = made_by(value, *_LAYOUT)
            if node is None:
                return self.of(value)
            if node.op_type == "Slice" and not _from_the_first(node):
                return None
            value = node.inputs[0]
        return value

    def of(self, value: ir.Value | None) -> ir.Value | None:
        """Return a value that broadcasts to the tensor and equals `value` at each listed position; or None."""
        if value is None or self._same_everywhere(value):
            return value
        node = made_by(value, "Identity", "GatherND", *_ELEMENTWISE)
        if node is None:
            return None
        if node.op_type == "GatherND":
            return self._read(node)
        if node.op_type == "Div" and value.dtype not in REAL:  # elsewhere it may divide by 0, which ends the run
            return None
        if node.op_type in _ELEMENTWISE:
            inputs = [self.of(entry) for entry in node.inputs]
            if any(made is None and given is not None for made, given in zip(inputs, node.inputs, strict=True)):
                return None
            attributes = {name: attribute.value for name, attribute in node.attributes.items()}
            return self._stage.add(node.op_type, f"everywhere/{node.name or value.name}", *inputs, **attributes)
        return self.of(node.inputs[0])

    def _same_everywhere(self, value: ir.Value) -> bool:
        """True if a value is independent of the listed positions: one number, or a row for the axes after the mask."""
        if value.shape is None or not all(isinstance(size, int) for size in value.shape):
            return False
        rank = len(value.shape)
        return rank <= self._behind or (
            rank == self._behind + 1 and value.shape[0] == 1 and constant_of(value) is not None
        )

    def _read(self, node: ir.Node) -> ir.Value | None:
        """Return the tensor from which a node reads the listed positions."""
        source, index = node.inputs[:2]
        mask = listed_mask(index)
        if (
            source is None
            or mask is None
            or node.attributes.get_int("batch_dims", 0) != 0
            or _origin(mask) is not self._origin
        ):
            return None
        if source.shape is None or self._data.shape is None:
            return None
        return source if source is self._data or proved_same(source.shape, self._data.shape) else None


def _from_the_first(node: ir.Node) -> bool:
    """True for a `Slice` from the first entry of a list: if as long as the list of positions, it is all of it."""
    start = constant_of(node.inputs[1])
    step = constant_of(node.inputs[4]) if len(node.inputs) > 4 else None
    return start is not None and start.size == 1 and not start.any() and (step is None or step.item() == 1)
