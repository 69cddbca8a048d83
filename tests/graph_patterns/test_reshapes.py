"""Computed targets of Reshape nodes become numbers: where they can, and nowhere else."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.testing import assert_array_equal
from onnx import TensorProto, helper

from tofu_export.graph_patterns.lean.reshapes import settle_reshapes
from tofu_export.system.ort import open_session

Sizes = list[int | str]


def graph(sizes: Sizes, computed: bool = True) -> ir.Model:
    """x [batch, 6] reshaped to `sizes`, whose first is taken from x where the target is computed."""
    nodes = [
        helper.make_node("Shape", ["x"], ["batch"], start=0, end=1),
        helper.make_node("Concat", ["batch", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target" if computed else "rest"], ["y"], name="reshape", allowzero=1),
    ]
    rest = [size for size in sizes if isinstance(size, int)] if computed else [-1, 6]
    proto = helper.make_graph(
        nodes if computed else nodes[2:],
        "reshaped",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, sizes)],
        [helper.make_tensor("rest", TensorProto.INT64, [len(rest)], rest)],
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return ir.from_proto(model)


def target(model: ir.Model) -> ir.Value:
    (node,) = (node for node in model.graph if node.op_type == "Reshape")
    value = node.inputs[1]
    assert value is not None
    return value


def test_the_batch_is_told_by_minus_one_and_nothing_changes() -> None:
    model = graph(["batch", 2, 3])
    assert settle_reshapes(model) == 1
    settled = target(model).const_value
    assert settled is not None
    assert_array_equal(settled.numpy(), [-1, 2, 3])
    session = open_session(ir.to_proto(model).SerializeToString())
    for batch in (1, 4):
        x = np.arange(batch * 6, dtype=np.float32).reshape(batch, 6)
        assert_array_equal(session.run({"x": x})["y"], x.reshape(batch, 2, 3))


@pytest.mark.parametrize("sizes", [["batch", "other"], ["batch", 0, 3]], ids=["two unknown", "a zero"])
def test_a_target_that_numbers_do_not_tell_stays_computed(sizes: Sizes) -> None:
    model = graph(sizes)
    assert settle_reshapes(model) == 0
    assert target(model).name == "target"


def test_a_constant_target_stays_as_it_is() -> None:
    model = graph(["batch", 6], computed=False)
    assert settle_reshapes(model) == 0
    assert target(model).name == "rest"


def test_an_output_of_unknown_rank_stays_computed() -> None:
    model = graph(["batch", 2, 3])
    model.graph.outputs[0].shape = None
    assert settle_reshapes(model) == 0
