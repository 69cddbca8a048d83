"""Prove facts about values in foreign graphs: equal sizes, no negative numbers, no infinities.

A rewrite that relies on such a fact asks here. "No" means "not proved": the rewrite then takes a form that does not
rely on it, or leaves the node unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from tofu_export.graph_patterns.foreign.values import constant_of, made_by, through

__all__ = ["dim_of", "may_be_infinite", "never_negative", "proved_same"]

Sizes = ir.Shape | Sequence[int | ir.SymbolicDim]

_LAYOUT = frozenset({"Cast", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Reshape",
                     "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"})  # fmt: skip
"""Operators whose results are entries of their first input."""

_COUNTS = frozenset({"ArgMax", "ArgMin", "NonZero", "Shape", "Size"})
"""Operators whose results are never negative."""

_BOUNDED = frozenset({"Clip", "Conv", "ConvTranspose", "Cos", "Erf", "Gemm", "InstanceNormalization", "HardSigmoid",
                      "LayerNormalization", "LpNormalization", "MatMul", "OneHot", "RMSNormalization",
                      "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Sigmoid", "Sin",
                      "Softmax", "Softsign", "Tanh"})  # fmt: skip
"""Operators after which an infinity is gone, or has made NaN of a whole row."""

_SPREADING = frozenset({"Abs", "Add", "Concat", "Div", "Max", "Mean", "Min", "Mul", "Neg", "ReduceMax", "ReduceMean",
                        "ReduceMin", "ReduceSum", "Relu", "Sqrt", "Sub", "Sum"})  # fmt: skip
"""Operators whose results are infinite if an input is. A quotient of finite numbers is assumed to be finite, as sizes
and norms of tokens are not 0."""


def proved_same(one: Sizes, other: Sizes) -> bool:
    """True if two shapes are known to be equal: as numbers, or by their names."""
    return len(one) == len(other) and all(
        left == right and (isinstance(left, int) or left.value is not None)
        for left, right in zip(one, other, strict=True)
    )


def dim_of(value: ir.Value | None) -> int | ir.SymbolicDim | None:
    """Return the size that a scalar (or 1-element list) states: a constant or an axis of a tensor; None if neither."""
    if value is None:
        return None
    value = through(value, ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze"))
    content = constant_of(value)
    if content is not None:
        return int(content.item()) if content.size == 1 else None
    node = value.producer()
    axis = 0
    if node is not None and node.op_type in ("Gather", "Slice"):
        picked = constant_of(node.inputs[1])
        if picked is None or picked.size != 1 or (node.op_type == "Slice" and _length(value) != 1):
            return None
        axis = int(picked.item())
        node = made_by(node.inputs[0], "Shape")
    if node is None or node.op_type != "Shape" or node.inputs[0] is None or node.inputs[0].shape is None:
        return None
    sizes = list(node.inputs[0].shape)[node.attributes.get_int("start", 0) :]
    if "end" in node.attributes:
        sizes = list(node.inputs[0].shape)[node.attributes.get_int("start", 0) : node.attributes.get_int("end", 0)]
    return sizes[axis] if -len(sizes) <= axis < len(sizes) else None


def never_negative(value: ir.Value | None) -> bool:
    """True if all numbers of an integer tensor are known to be >= 0, as for indices of a sort or an arg-max."""
    content = constant_of(value)
    if content is not None:
        return not bool((content < 0).any())
    node = None if value is None else value.producer()
    if node is None or node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type in _COUNTS:
        return True
    if node.op_type == "TopK":
        return value is node.outputs[1]
    if node.op_type in _LAYOUT:
        return never_negative(node.inputs[0])
    if node.op_type in ("Add", "Mul", "Concat", "Max"):
        return all(never_negative(entry) for entry in node.inputs)
    if node.op_type == "Where":
        return never_negative(node.inputs[1]) and never_negative(node.inputs[2])
    if node.op_type == "Range":
        return all(never_negative(entry) for entry in (node.inputs[0], node.inputs[2]))
    if node.op_type == "Mod":
        return not node.attributes.get_int("fmod", 0) and never_negative(node.inputs[1])
    return False


def may_be_infinite(value: ir.Value | None) -> bool:
    """True if an infinity from an input or constant may reach a tensor.

    After a product or a normalisation, infinities are not tracked.
    """
    seen: set[ir.Value] = set()
    waiting = [value]
    while waiting:
        entry = waiting.pop()
        if entry is None or entry in seen:
            continue
        seen.add(entry)
        content = constant_of(entry)
        if content is not None:
            if content.dtype.kind not in "biu" and not np.isfinite(content.astype(np.float64)).all():
                return True
            continue
        node = entry.producer()
        if node is None or node.domain not in ("", "ai.onnx"):
            return True
        if node.op_type in _BOUNDED:
            continue
        if node.op_type in _LAYOUT or node.op_type == "TopK":
            waiting.append(node.inputs[0])
        elif node.op_type == "Where":
            waiting += node.inputs[1:3]
        elif node.op_type in _SPREADING:
            waiting += node.inputs
        elif node.op_type in ("ScatterElements", "ScatterND"):
            waiting += (node.inputs[0], node.inputs[2])
        else:
            return True
    return False


def _length(value: ir.Value) -> int | None:
    shape = value.shape
    return shape[0] if shape is not None and len(shape) == 1 and isinstance(shape[0], int) else None
