"""What files of others state, and how they are put together: names, shapes, functions, versions, sparse tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from onnx import TensorProto, helper, numpy_helper

from tofu_export.graph_patterns.foreign.rewrite import Change, rewrite
from tofu_export.graph_patterns.foreign.sparse import sparse_names, write_out_sparse
from tofu_export.options import Target
from tofu_export.system.ort import open_session

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
Sizes = list[Any] | None


def value(name: str, shape: Sizes, kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(nodes: list[onnx.NodeProto], *, stated: tuple[onnx.ValueInfoProto, ...] = (), **more: Any) -> onnx.ModelProto:
    """Rows `u` [b, 3, 2] that join those of `x` [b, 5, 2] at `i`."""
    inputs = [value("x", ["b", 5, 2]), value("i", ["b", 3, 2], INT64), value("u", ["b", 3, 2])]
    zero = numpy_helper.from_array(np.array(0), "zero")
    graph = helper.make_graph(nodes, "g", inputs, [value("y", ["b", 5, 2])], [zero], value_info=stated)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("theirs", 1)]
    return helper.make_model(graph, **({"opset_imports": opsets, "ir_version": 9} | more))


def join(data: str, result: str, reduction: str = "add", name: str = "join") -> onnx.NodeProto:
    return helper.make_node("ScatterElements", [data, "i", "u"], [result], name=name, axis=1, reduction=reduction)


def rewritten(proto: onnx.ModelProto, target: Target = Target.TENSORRT_RTX) -> tuple[onnx.ModelProto, list[Change]]:
    found = ir.from_proto(proto)
    changes = rewrite(found, target)
    result = ir.to_proto(found)
    onnx.checker.check_model(result, full_check=True)
    return result, list(changes)


def feeds(batch: int = 2) -> dict[str, np.ndarray]:
    random = np.random.default_rng(7)
    return {
        "x": random.standard_normal((batch, 5, 2), np.float32),
        "i": random.integers(-5, 5, (batch, 3, 2)),
        "u": random.standard_normal((batch, 3, 2), np.float32),
    }


def run(proto: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> np.ndarray:
    return open_session(proto.SerializeToString()).run(inputs)["y"]


def check_same(proto: onnx.ModelProto, result: onnx.ModelProto) -> None:
    for batch in (1, 2):
        assert_allclose(run(result, feeds(batch)), run(proto, feeds(batch)), atol=1e-5)


# --- Names ---------------------------------------------------------------------------------------------------------


def on_rank(number: int, data: str, result: str) -> list[onnx.NodeProto]:
    """An `If` on the rank of `data`, with the same names in its branches whatever the number."""
    scalar = helper.make_graph([helper.make_node("Identity", [data], ["t"], name="n")], "then", [], [value("t", None)])
    other = helper.make_graph(
        [helper.make_node("Neg", [data], ["w"], name="n"), join("w", "e")], "else", [], [value("e", None)]
    )
    return [
        helper.make_node("Shape", [data], [f"shape{number}"]),
        helper.make_node("Size", [f"shape{number}"], [f"rank{number}"]),
        helper.make_node("Equal", [f"rank{number}", "zero"], [f"scalar{number}"]),
        helper.make_node(
            "If", [f"scalar{number}"], [result], name=f"if{number}", then_branch=scalar, else_branch=other
        ),
    ]


def test_branches_may_use_each_others_names_and_those_of_the_graph() -> None:
    nodes = [*on_rank(0, "x", "a"), *on_rank(1, "a", "b"), helper.make_node("Relu", ["b"], ["w"], name="join")]
    proto = model([*nodes, helper.make_node("Add", ["w", "b"], ["y"])])
    result, changes = rewritten(proto)
    assert [change.left for change in changes] == [""] * 4
    names = [name for node in result.graph.node for name in node.output]
    assert len(set(names)) == len(names)
    check_same(proto, result)


def test_a_part_of_a_shape_says_nothing_about_the_rank() -> None:
    nodes = on_rank(0, "x", "y")
    nodes[0].attribute.append(helper.make_attribute("end", 0))
    assert rewritten(model(nodes))[1][0].op_type == "ScatterElements"  # in the branch, which stays


@pytest.mark.parametrize("name", ["join", ""], ids=["named", "nameless"])
def test_new_names_are_none_of_the_file_s(name: str) -> None:
    taken = [f"{name or 'ScatterElements_2'}/lowered/{part}" for part in ("joins", "rows")]
    first = [helper.make_node("Relu", [data], [made]) for data, made in zip(("x", taken[0]), taken, strict=True)]
    proto = model([*first, join(taken[1], "y", name=name)])
    result, changes = rewritten(proto)
    assert changes == [Change(name or "ScatterElements_2", "ScatterElements")]
    check_same(proto, result)


# --- Shapes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stated", [[1, 5, 2], ["b", 4, 2], [5, 2], ["b", "n", 2], [None, 5, None]], ids=str)
@pytest.mark.parametrize("reduction", ["add", "max"])
def test_old_sizes_of_values_in_between_do_not_count(stated: list[Any], reduction: str) -> None:
    proto = model([helper.make_node("Relu", ["x"], ["r"]), join("r", "y", reduction)], stated=(value("r", stated),))
    result, changes = rewritten(proto)
    assert changes == [Change("join", "ScatterElements")]
    check_same(proto, result)
    kept = [
        entry for entry in result.graph.value_info if entry.name == "r" and entry.type.tensor_type.HasField("shape")
    ]
    contradicts = any(isinstance(size, int) and size not in (5, 2) for size in stated) or len(stated) != 3
    assert len(kept) == (0 if contradicts else 1)


# --- Functions and versions ----------------------------------------------------------------------------------------


def test_a_function_of_another_opset_is_left() -> None:
    body = [helper.make_node("ScatterElements", ["a", "b", "c"], ["d"], name="inner", axis=1, reduction="add")]
    function = helper.make_function("theirs", "Join", ["a", "b", "c"], ["d"], body, [helper.make_opsetid("", 20)])
    call = helper.make_node("Join", ["x", "i", "u"], ["z"], domain="theirs")
    proto = model([call, join("z", "y")], functions=[function])
    result, changes = rewritten(proto)
    assert [(change.node, bool(change.left)) for change in changes] == [("join", False), ("inner", True)]
    assert "'Join' of ai.onnx 20" in changes[1].left
    check_same(proto, result)


@pytest.mark.parametrize("reduction", ["add", "max"])
def test_the_default_domain_may_be_called_by_its_name(reduction: str) -> None:
    proto = model([join("x", "y", reduction)], opset_imports=[helper.make_opsetid("ai.onnx", 18)])
    result, changes = rewritten(proto)
    assert changes == [Change("join", "ScatterElements")]
    check_same(proto, result)


def test_a_file_in_which_every_initializer_is_an_input() -> None:
    proto = model([join("x", "y")], ir_version=3)
    proto.graph.input.append(value("zero", [], INT64))
    onnx.checker.check_model(proto, full_check=True)
    result, _ = rewritten(proto)
    assert result.ir_version == 4
    check_same(proto, result)


# --- Sparse tensors ------------------------------------------------------------------------------------------------


def sparse(name: str, places: Any = (1, 9)) -> onnx.SparseTensorProto:
    index = np.array(places, dtype=np.int64)
    numbers = helper.make_tensor(name, FLOAT, [2], [3.0, 4.0])
    return helper.make_sparse_tensor(numbers, numpy_helper.from_array(index), [5, 2])


@pytest.mark.parametrize("places", [(1, 9), ((0, 1), (4, 1))], ids=["flat", "coordinates"])
def test_sparse_tensors_are_found_everywhere(places: Any) -> None:
    then = helper.make_graph([helper.make_node("Add", ["x", "s"], ["t"])], "then", [], [value("t", None)])
    then.sparse_initializer.append(sparse("s", places))
    constant = helper.make_node("Constant", [], ["c"], sparse_value=sparse("c", places))
    other = helper.make_graph([constant, helper.make_node("Add", ["x", "c"], ["e"])], "else", [], [value("e", None)])
    scalar = helper.make_node("Equal", ["first", "zero"], ["chosen"])
    first = helper.make_node("ReduceMax", ["i"], ["first"], keepdims=0)
    proto = model([first, scalar, helper.make_node("If", ["chosen"], ["y"], then_branch=then, else_branch=other)])
    assert sorted(sparse_names(proto)) == ["c", "s"]
    assert sorted(write_out_sparse(proto)) == ["c", "s"]
    assert sparse_names(proto) == ()
    expected = np.zeros((5, 2), np.float32)
    expected[[0, 4], [1, 1]] = 3, 4
    for largest in (0, 1):
        inputs = feeds() | {"i": np.full((2, 3, 2), largest)}
        assert_array_equal(run(proto, inputs), inputs["x"] + expected)
