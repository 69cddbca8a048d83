"""Make the targets of Reshape nodes constant that the exporter left to be computed.

onnxscript before 0.7.2 leaves the target of a Reshape with a dynamic batch as the batch, taken from the input's shape,
joined with constants. Rules that read targets, and runtimes that plan by them, need numbers.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

__all__ = ["settle_reshapes"]


def settle_reshapes(model: ir.Model) -> int:
    """Make the computed targets of Reshape nodes constant, in place, and return their number.

    Requires: values have shapes.
    Ensures: the same numbers for every batch; -1 stands for the one unknown size. A target stays computed if
    more than one size of the output is unknown, or one is zero. Nodes that computed a target are left unused.
    """
    settled = 0
    for node in list(model.graph):
        if node.op_type != "Reshape" or node.domain:
            continue
        target, sizes = node.inputs[1], _sizes(node.outputs[0].shape)
        if target is None or target.const_value is not None or sizes is None:
            continue
        name = f"{node.outputs[0].name}_target"
        constant = ir.Value(name=name, const_value=ir.tensor(np.array(sizes, np.int64), name=name))
        constant.dtype, constant.shape = ir.DataType.INT64, ir.Shape([len(sizes)])
        model.graph.register_initializer(constant)
        node.replace_input_with(1, constant)
        settled += 1
    return settled


def _sizes(shape: ir.Shape | None) -> list[int] | None:
    """Return the sizes, with -1 for an unknown one; None if several are unknown, or if -1 would be ambiguous."""
    if shape is None:
        return None
    sizes = [size if isinstance(size, int) else -1 for size in shape]
    return sizes if sizes.count(-1) <= 1 and 0 not in sizes else None
