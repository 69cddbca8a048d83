"""Graphs of others: rewritten where the operator is known, the same numbers, and left alone where it is not."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.testing import assert_allclose
from onnx import TensorProto, helper, numpy_helper

from tests.graph_patterns.foreign_graphs import B, C, R, T, scatter, scatter_nd, written
from tofu_export.errors import LoweringError
from tofu_export.graph_patterns.foreign.rewrite import Change, rewrite
from tofu_export.graph_patterns.lowering import census
from tofu_export.options import Target
from tofu_export.system.ort import open_session

TENSORRTS = [Target.PORTABLE, Target.TENSORRT, Target.TENSORRT_RTX]


def feeds(channels: int = C, *, expanded: bool = True, index_dtype: type = np.int64) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    index = random.integers(0, 3, size=(B, R, 1 if expanded else channels))  # several join some rows, none others
    return {
        "x": random.standard_normal((B, T, channels), dtype=np.float32),
        "index": index.astype(index_dtype),
        "updates": random.standard_normal((B, R, channels), dtype=np.float32),
    }


def rewritten(proto: onnx.ModelProto, target: Target = Target.PORTABLE) -> tuple[onnx.ModelProto, tuple[Change, ...]]:
    model = ir.from_proto(proto)
    changes = rewrite(model, target)
    result = ir.to_proto(model)
    onnx.checker.check_model(result, full_check=True)
    return result, changes


def run(proto: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> np.ndarray:
    session = open_session(proto.SerializeToString())
    return session.run({name: inputs[name] for name in session.inputs})["y"]


_TWO = {"add": operator.add, "mul": operator.mul, "max": max, "min": min}


def expected(reduction: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """In plain loops, not by another scatter."""
    result = inputs["x"].astype(np.float64)
    for image in range(B):
        for source in range(R):
            for channel in range(result.shape[2]):
                row = inputs["index"][image, source, min(channel, inputs["index"].shape[2] - 1)]
                update = inputs["updates"][image, source, channel]
                old = result[image, row, channel]
                result[image, row, channel] = _TWO[reduction](old, update)
    return result


@pytest.mark.parametrize("target", TENSORRTS)
@pytest.mark.parametrize("opset", [16, 18, 20])
@pytest.mark.parametrize(("reduction", "channels"), [("add", C), ("add", 1), ("max", 1)])
def test_a_scatter_that_reduces_whole_rows(reduction: str, channels: int, opset: int, target: Target) -> None:
    proto = scatter(reduction, channels, opset=opset)
    result, changes = rewritten(proto, target)
    assert changes == (Change("merge", "ScatterElements"),)
    assert not any(node.op_type == "ScatterElements" for node in result.graph.node)
    inputs = feeds(channels)
    assert_allclose(run(result, inputs), expected(reduction, inputs), atol=1e-5)
    assert_allclose(run(proto, inputs), expected(reduction, inputs), atol=1e-5)  # the oracle is right about scatter


def test_a_column_of_int32_indices_needs_no_expand() -> None:
    proto = scatter("add", 1, expanded=False, index_dtype=TensorProto.INT32)
    result, changes = rewritten(proto)
    assert not changes[0].left
    inputs = feeds(1, expanded=False, index_dtype=np.int32)
    assert_allclose(run(result, inputs), expected("add", inputs), atol=1e-5)


@pytest.mark.parametrize(
    ("reduction", "kwargs"),
    [
        ("add", {"expanded": False}),
        ("add", {"rows": "rows"}),
        ("mul", {}),
        ("mul", {"expanded": False}),
        ("max", {"rows": "rows"}),
        ("max", {}),
        ("min", {}),
        ("min", {"channels": 1}),
    ],
    ids=str,
)
def test_a_scatter_of_another_kind(reduction: str, kwargs: dict[str, Any]) -> None:
    """By channel, with a reduction that no product makes, onto rows whose number only the runtime knows."""
    proto = scatter(reduction, **kwargs)
    result, changes = rewritten(proto)
    assert changes == (Change("merge", "ScatterElements"),)
    assert not any(node.op_type == "ScatterElements" for node in result.graph.node)
    inputs = feeds(kwargs.get("channels", C), expanded=kwargs.get("expanded", True))
    assert_allclose(run(result, inputs), expected(reduction, inputs), atol=1e-5)
    assert_allclose(run(proto, inputs), expected(reduction, inputs), atol=1e-5)


@pytest.mark.parametrize("reduction", ["add", "mul", "max", "min"])
def test_numbers_without_channels(reduction: str) -> None:
    """Along the last axis, whole numbers too: how many tokens one has taken in."""
    shapes = {"x": ["batch", T], "index": ["batch", R], "updates": ["batch", R]}
    types = {"x": TensorProto.INT64, "index": TensorProto.INT64, "updates": TensorProto.INT64}
    node = helper.make_node("ScatterElements", [*shapes], ["y"], name="merge", axis=1, reduction=reduction)
    values = [helper.make_tensor_value_info(name, types[name], shape) for name, shape in shapes.items()]
    outputs = [helper.make_tensor_value_info("y", TensorProto.INT64, ["batch", T])]
    graph = helper.make_graph([node], "merge", values, outputs)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    random = np.random.default_rng(0)
    inputs = {"x": random.integers(-5, 5, (B, T)), "index": random.integers(0, 3, (B, R)),
              "updates": random.integers(-5, 5, (B, R))}  # fmt: skip
    result, (change,) = rewritten(proto)
    assert not change.left
    columns = {name: value[..., None] for name, value in inputs.items()}
    np.testing.assert_array_equal(run(result, inputs), expected(reduction, columns)[..., 0])


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (scatter("max", 4_000_000), "7 x 5 x 4000000 numbers"),
        (scatter("add", dtype=TensorProto.INT8), "it reduces INT8"),
    ],
)
def test_what_has_no_equal_is_left_and_said(proto: onnx.ModelProto, reason: str) -> None:
    before = proto.SerializeToString()
    result, (change,) = rewritten(proto)
    assert reason in change.left
    assert [node.op_type for node in result.graph.node] == [node.op_type for node in proto.graph.node]
    assert proto.SerializeToString() == before


@pytest.mark.parametrize("reduction", [None, "none"])
def test_a_scatter_that_overwrites_is_none_of_ours(reduction: str | None) -> None:
    assert rewritten(scatter(reduction))[1] == ()


def test_onnxruntime_keeps_its_scatter_in_float32_and_not_in_half() -> None:
    assert rewritten(scatter("add"), Target.ONNXRUNTIME)[1] == ()
    half, changes = rewritten(scatter("add", dtype=TensorProto.FLOAT16), Target.ONNXRUNTIME)
    assert not changes[0].left
    inputs = {name: value.astype(np.float16) if name != "index" else value for name, value in feeds().items()}
    assert_allclose(run(half, inputs), expected("add", inputs), atol=5e-3)


@pytest.mark.parametrize("reduction", ["add", "mul", "max", "min"])
@pytest.mark.parametrize(
    ("shape", "places", "depth"),
    [([6, 3], [5], 1), (["n", 3], [5], 1), ([2, 3, 4], [5], 2), (["n", 3, 4], [2, 5], 2), ([2, 3], [9], 2)],
    ids=str,
)
def test_scatter_nd(reduction: str, shape: list[Any], places: list[Any], depth: int) -> None:
    """As one list of rows: of a tensor of any rank, whose first size may be open."""
    proto = scatter_nd(reduction, shape, places, depth)
    sizes = [4 if size == "n" else size for size in shape]
    random = np.random.default_rng(0)
    index = np.stack([random.integers(0, size, places) for size in sizes[:depth]], axis=-1)
    inputs = {"x": random.standard_normal(sizes, dtype=np.float32), "i": index,
              "u": random.standard_normal([*places, *sizes[depth:]], dtype=np.float32)}  # fmt: skip
    result, changes = rewritten(proto, Target.TENSORRT)
    assert changes == (Change("put", "ScatterND"),)
    right = inputs["x"].astype(np.float64)
    for place in np.ndindex(*places):
        at = tuple(index[place])
        right[at] = np.vectorize(_TWO[reduction])(right[at], inputs["u"][place])
    assert_allclose(run(result, inputs), right, atol=1e-5)
    assert_allclose(run(proto, inputs), right, atol=1e-5)
    assert rewritten(proto, Target.ONNXRUNTIME)[1] == ()


@pytest.mark.parametrize(
    ("shape", "places", "depth", "reason"),
    [
        (["n", "m", 4], [5], 2, "are not fixed"),
        (["n", 3, "c"], [5], 1, "are not fixed"),
        ([60_000, 60], [50, 60], 1, "60000 x 3000 x 60 numbers"),
    ],
)
def test_a_scatter_nd_that_is_left(shape: list[Any], places: list[Any], depth: int, reason: str) -> None:
    (change,) = rewritten(scatter_nd("max", shape, places, depth), Target.TENSORRT)[1]
    assert reason in change.left


def counted(*nodes: onnx.NodeProto, constants: dict[str, list[Any]]) -> onnx.ModelProto:
    """`x[a, index] += u` where `a` [B, R, 1] is made by nodes."""
    more = [helper.make_node("Unsqueeze", ["index", "two"], ["rows"]),
            helper.make_node("Concat", ["a", "rows"], ["i"], axis=-1),
            helper.make_node("ScatterND", ["x", "i", "u"], ["y"], name="put", reduction="add")]  # fmt: skip
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [R, T, C]),
        helper.make_tensor_value_info("index", TensorProto.INT64, [R, R]),
        helper.make_tensor_value_info("u", TensorProto.FLOAT, [R, R, C]),
    ]
    arrays = [numpy_helper.from_array(np.array(value), name) for name, value in {"two": [2], **constants}.items()]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [R, T, C])]
    graph = helper.make_graph([*nodes, *more], "put", inputs, outputs, arrays)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def count_along(axis: int, start: int = 0) -> onnx.ModelProto:
    """The numbers from `start` along an axis of [R, R]."""
    return counted(
        helper.make_node("Range", ["start", "stop", "one"], ["range"]),
        helper.make_node("Unsqueeze", ["range", "axis"], ["column"]),
        helper.make_node("Expand", ["column", "shape"], ["wide"]),
        helper.make_node("Unsqueeze", ["wide", "two"], ["a"]),
        constants={"start": start, "stop": start + R, "one": 1, "axis": [1 - axis], "shape": [R, R]},  # type: ignore
    )


@pytest.mark.parametrize(
    ("proto", "batched"),
    [
        (count_along(0), True),
        (count_along(1), False),
        (count_along(0, start=-R), False),
        (counted(constants={"a": [[[image]] * R for image in range(R)]}), True),
        (counted(constants={"a": [[[row] for row in range(R)]] * R}), False),
    ],
    ids=["images", "rows", "not from 0", "constant", "other constant"],
)
def test_images_are_told_from_other_indices(proto: onnx.ModelProto, batched: bool) -> None:
    """As many images as rows, so that shapes do not tell. Only a count of the images lets each join its own rows."""
    random = np.random.default_rng(0)
    inputs = {"x": random.standard_normal((R, T, C), dtype=np.float32), "index": random.integers(0, 3, (R, R)),
              "u": random.standard_normal((R, R, C), dtype=np.float32)}  # fmt: skip
    result, (change,) = rewritten(proto)
    assert not change.left
    kinds = [node.op_type for node in result.graph.node if node.name.startswith("put/")]
    assert ("Reshape" in kinds) != batched
    if "start" not in {tensor.name for tensor in proto.graph.initializer} or batched:
        assert_allclose(run(result, inputs), run(proto, inputs), atol=1e-5)


# --- Masks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int64, np.float32])
def test_a_mask_of_numbers(dtype: type) -> None:
    """What is not zero counts."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [
        helper.make_node("NonZero", ["m"], ["places"]),
        helper.make_node("Transpose", ["places"], ["index"]),
        helper.make_node("Shape", ["index"], ["sizes"]),
        helper.make_node("Slice", ["sizes", "zero", "one"], ["count"]),
        helper.make_node("Expand", ["value", "count"], ["updates"]),
        helper.make_node("ScatterND", ["x", "index", "updates"], ["y"], name="write"),
    ]
    arrays = {"zero": np.array([0]), "one": np.array([1]), "value": np.array([7.0], dtype=np.float32)}
    graph = helper.make_graph(
        nodes,
        "mask",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", C]),
            helper.make_tensor_value_info("m", kind, ["b", C]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", C])],
        [numpy_helper.from_array(value, name) for name, value in arrays.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    result, changes = rewritten(proto)
    assert changes == (Change("write", "ScatterND"),)
    assert [node.op_type for node in result.graph.node] == ["Cast", "Where"]
    mask = np.array([[0, 2, -1, 0], [3, 0, 0, 1]], dtype=dtype)
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.testing.assert_array_equal(run(result, {"x": x, "m": mask}), np.where(mask != 0, 7.0, x))


@pytest.mark.parametrize("updates", [["k"], [3]])
def test_a_list_that_is_written_through_a_mask_stays(updates: list[Any]) -> None:
    proto = written(updates)
    result, (change,) = rewritten(proto)
    assert "depends on more than the place" in change.left
    assert len(result.graph.node) == 3


def test_a_quotient_of_integers_is_computed_where_the_mask_is_set_alone() -> None:
    """Elsewhere it may divide by 0, which ends the run."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["places"]),
        helper.make_node("Transpose", ["places"], ["index"], perm=[1, 0]),
        helper.make_node("GatherND", ["x", "index"], ["read"]),
        helper.make_node("Div", ["read", "read"], ["updates"]),
        helper.make_node("ScatterND", ["x", "index", "updates"], ["y"], name="write"),
    ]
    for kind, left in ((TensorProto.INT64, True), (TensorProto.FLOAT, False)):
        values = [helper.make_tensor_value_info(name, kind, ["b", C]) for name in ("x", "y")]
        graph = helper.make_graph(nodes, "mask", values[:1], values[1:])
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        (change,) = rewritten(proto)[1]
        assert bool(change.left) == left


@pytest.mark.parametrize(
    ("mask", "data", "reason"),
    [
        ([1, 4], ["b", 4, 3], "as large as"),
        (["m", 4], ["b", 4, 3], "as large as"),
        (["b", 4], ["b", 4, 3], ""),
        ([2, 4], [3, 4, 3], "as large as"),
    ],
    ids=str,
)
def test_a_mask_of_other_sizes_stays(mask: list[Any], data: list[Any], reason: str) -> None:
    """It writes to the first places alone, where a `Where` would broadcast."""
    nodes = [
        helper.make_node("NonZero", ["m"], ["places"]),
        helper.make_node("Transpose", ["places"], ["index"], perm=[1, 0]),
        helper.make_node("Shape", ["index"], ["sizes"]),
        helper.make_node("Slice", ["sizes", "zero", "one"], ["count"]),
        helper.make_node("Concat", ["count", "three"], ["wide"], axis=0),
        helper.make_node("Expand", ["value", "wide"], ["updates"]),
        helper.make_node("ScatterND", ["x", "index", "updates"], ["y"], name="write"),
    ]
    arrays = {"zero": np.array([0]), "one": np.array([1]), "three": np.array([3]), "value": np.float32([[7, 8, 9]])}
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, data),
              helper.make_tensor_value_info("m", TensorProto.BOOL, mask)]  # fmt: skip
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, data)
    initializers = [numpy_helper.from_array(value, name) for name, value in arrays.items()]
    graph = helper.make_graph(nodes, "mask", inputs, [output], initializers)
    for opset in (12, 18):  # the axes of Unsqueeze are an attribute up to opset 12
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        result, (change,) = rewritten(proto)
        assert reason in change.left
        assert bool(reason) == bool(change.left)
    if not reason:
        inputs_ = {"x": np.zeros((2, 4, 3), np.float32), "m": np.random.default_rng(0).random((2, 4)) < 0.5}
        np.testing.assert_array_equal(run(result, inputs_), inputs_["m"][..., None] * np.float32([7, 8, 9]))


# --- Sub-graphs, functions, branches -------------------------------------------------------------------------------


def branch(nodes: list[onnx.NodeProto], output: str, shape: list[Any]) -> onnx.GraphProto:
    value = helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)
    return helper.make_graph(nodes, output, [], [value])


def test_scatters_in_both_branches() -> None:
    names = ["x", "index", "updates"]
    branches = [
        branch([helper.make_node("ScatterElements", names, [kind], name=kind, axis=1, reduction=kind)], kind, [B, T, 1])
        for kind in ("add", "max")
    ]
    inputs = [
        helper.make_tensor_value_info("chosen", TensorProto.BOOL, []),
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [B, T, 1]),
        helper.make_tensor_value_info("index", TensorProto.INT64, [B, R, 1]),
        helper.make_tensor_value_info("updates", TensorProto.FLOAT, [B, R, 1]),
    ]
    node = helper.make_node("If", ["chosen"], ["y"], then_branch=branches[0], else_branch=branches[1])
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, [B, T, 1])])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    result, changes = rewritten(proto)
    assert sorted(change.node for change in changes) == ["add", "max"]
    for chosen, reduction in ((True, "add"), (False, "max")):
        given = feeds(1, expanded=False) | {"chosen": np.array(chosen)}
        assert_allclose(run(result, given), expected(reduction, given), atol=1e-5)


def test_a_scatter_in_a_function_that_is_called_twice() -> None:
    body = [helper.make_node("ScatterElements", ["a", "b", "c"], ["d"], name="join", axis=1, reduction="add")]
    opset = [helper.make_opsetid("", 18)]
    function = helper.make_function("theirs", "Join", ["a", "b", "c"], ["d"], body, opset)
    nodes = [
        helper.make_node("Join", ["x", "index", "updates"], ["z"], domain="theirs", name="first"),
        helper.make_node("Join", ["z", "index", "updates"], ["y"], domain="theirs", name="second"),
    ]
    once = scatter("add", expanded=False)
    graph = helper.make_graph(nodes, "g", once.graph.input, once.graph.output)
    imports = [*opset, helper.make_opsetid("theirs", 1)]
    proto = helper.make_model(graph, opset_imports=imports, functions=[function], ir_version=9)
    result, changes = rewritten(proto)
    assert len(changes) == 2
    assert not any(change.left for change in changes)
    inputs = feeds(expanded=False)
    twice = expected("add", {**inputs, "x": expected("add", inputs)})
    assert_allclose(run(result, inputs), twice, atol=1e-5)


def test_what_the_file_states_of_other_values_stays() -> None:
    """Sequences among them, for which shape inference has other types than for tensors."""
    proto = scatter("add")
    proto.graph.node.append(helper.make_node("SequenceConstruct", ["y", "x"], ["list"]))
    proto.graph.node.append(helper.make_node("SequenceAt", ["list", "one"], ["again"]))
    proto.graph.initializer.append(numpy_helper.from_array(np.array(1), "one"))
    proto.graph.output.append(helper.make_tensor_value_info("again", TensorProto.FLOAT, ["batch", T, C]))
    result, _ = rewritten(proto)
    assert "list" not in {value.name for value in result.graph.value_info}
    inputs = feeds()
    session = open_session(result.SerializeToString())
    np.testing.assert_array_equal(session.run(inputs)["again"], inputs["x"])
    assert list(result.graph.output) == list(proto.graph.output)


def ranked(count: int) -> onnx.ModelProto:
    """As the TorchScript exporter writes `scatter_reduce`: an `If` on the rank of its input, one behind the other."""
    nodes, value = [], "x"
    for number in range(count):
        names = {name: f"{name}{number}" for name in ("shape", "size", "scalar", "flat", "then", "other", "y")}
        result = "y" if number == count - 1 else names["y"]
        flat = helper.make_node("Reshape", [value, "one"], [names["then"]])
        same = helper.make_node("Identity", [value], [names["other"]])
        nodes += [
            helper.make_node("Shape", [value], [names["shape"]]),
            helper.make_node("Size", [names["shape"]], [names["size"]]),
            helper.make_node("Equal", [names["size"], "zero"], [names["scalar"]]),
            helper.make_node(
                "If", [names["scalar"]], [result], name=f"if{number}",
                then_branch=branch([flat], names["then"], ["n"]), else_branch=branch([same], names["other"], ["b", T]),
            ),
        ]  # fmt: skip
        value = result
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", T]) for name in ("x", "y")]
    arrays = [numpy_helper.from_array(np.array(0), "zero"), numpy_helper.from_array(np.array([-1]), "one")]
    graph = helper.make_graph(nodes, "ranks", values[:1], values[1:], arrays)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("count", [1, 4])
def test_branches_on_ranks_are_settled_to_the_last_and_outputs_keep_their_names(count: int) -> None:
    proto = ranked(count)
    result, changes = rewritten(proto)
    assert changes == tuple(Change(f"if{number}", "If") for number in range(count))
    assert list(result.graph.output) == list(proto.graph.output)
    assert not any(node.op_type == "If" for node in result.graph.node)
    x = np.ones((2, T), np.float32)
    np.testing.assert_array_equal(run(result, {"x": x}), x)


def test_an_output_behind_a_branch_gets_the_rank_that_it_has() -> None:
    """The exporter states the rank of the branch that is not taken."""
    proto = ranked(1)
    (output,) = proto.graph.output
    wrong = helper.make_tensor_value_info(output.name, TensorProto.FLOAT, ["n"])
    del proto.graph.output[:]
    proto.graph.output.append(wrong)
    result, _ = rewritten(proto)
    (found,) = result.graph.output
    assert found.name == output.name
    assert len(found.type.tensor_type.shape.dim) == len(output.type.tensor_type.shape.dim) == 2
    onnx.checker.check_model(result, full_check=True)


def test_a_branch_that_hands_on_what_it_does_not_make_stays() -> None:
    proto = ranked(1)
    other = next(entry for entry in proto.graph.node[-1].attribute if entry.name == "else_branch").g
    other.output[0].name = "x"  # a value of the graph around it
    del other.node[:]
    other.node.append(helper.make_node("Neg", ["x"], ["unused"]))
    assert rewrite(ir.from_proto(proto), Target.PORTABLE) == ()


def test_a_second_time_nothing_changes() -> None:
    for proto in (scatter("add"), scatter("max"), attention((TensorProto.BOOL, [6, 6])), ranked(2)):
        once, changes = rewritten(proto)
        assert changes
        twice, more = rewritten(once)
        assert more == ()
        assert twice == ir.to_proto(ir.from_proto(once))


# --- Attention -----------------------------------------------------------------------------------------------------


def attention(
    mask: tuple[int, list[Any]] | None = None, dtype: int = TensorProto.FLOAT, **attributes: Any
) -> onnx.ModelProto:
    names = ["q", "k", "v"] + ["m"] * (mask is not None)
    inputs = [helper.make_tensor_value_info(name, dtype, ["batch", 3, 6, 8]) for name in "qkv"]
    if mask is not None:
        inputs.append(helper.make_tensor_value_info("m", *mask))
    node = helper.make_node("Attention", names, ["y"], name="attend", **attributes)
    outputs = [helper.make_tensor_value_info("y", dtype, ["batch", 3, 6, 8])]
    graph = helper.make_graph([node], "attend", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)


def attended(inputs: dict[str, np.ndarray], scale: float) -> np.ndarray:
    scores = np.einsum("bhnd,bhmd->bhnm", inputs["q"], inputs["k"]).astype(np.float64) * scale
    if "m" in inputs:
        mask = inputs["m"]
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.einsum("bhnm,bhmd->bhnd", weights / weights.sum(axis=-1, keepdims=True), inputs["v"])


@pytest.mark.parametrize("target", [Target.PORTABLE, Target.TENSORRT_RTX, Target.ONNXRUNTIME])
@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("mask", [None, "float", "bool"])
def test_attention(mask: str | None, scale: float | None, target: Target) -> None:
    random = np.random.default_rng(0)
    inputs = {name: random.standard_normal((B, 3, 6, 8), dtype=np.float32) for name in "qkv"}
    kind = None
    if mask is not None:
        kind = (TensorProto.FLOAT if mask == "float" else TensorProto.BOOL, ["batch", 1, 1, 6])
        inputs["m"] = random.standard_normal((B, 1, 1, 6), dtype=np.float32)
        if mask == "bool":
            inputs["m"] = inputs["m"] > -1
            inputs["m"][..., 0] = True
    result, changes = rewritten(attention(kind, **({} if scale is None else {"scale": scale})), target)
    assert changes == (Change("attend", "Attention"),)
    assert "Attention" not in census(ir.from_proto(result))
    assert_allclose(run(result, inputs), attended(inputs, scale or 8**-0.5), atol=1e-5)


def test_half_precision_attention_is_built_as_it_is() -> None:
    assert rewritten(attention(dtype=TensorProto.FLOAT16), Target.TENSORRT_RTX)[1] == ()


@pytest.mark.parametrize("attributes", [{"is_causal": 1}, {"softcap": 2.0}])
def test_attention_of_another_kind_is_left(attributes: dict[str, Any]) -> None:
    (change,) = rewritten(attention(**attributes))[1]
    assert next(iter(attributes)) in change.left


def test_canonical_graphs_are_refused() -> None:
    proto = scatter("add")
    proto.graph.node[0].domain = "tofu"
    proto.opset_import.append(helper.make_opsetid("tofu", 1))
    with pytest.raises(LoweringError, match="export it again"):
        rewrite(ir.from_proto(proto), Target.PORTABLE)


def test_nodes_of_one_name() -> None:
    """Names of nodes need not differ, and what stands for two of them must not be mixed up."""
    proto = scatter("add")
    second = onnx.NodeProto()
    second.CopyFrom(proto.graph.node[-1])
    proto.graph.node[-1].output[0] = "between"
    second.input[0] = "between"
    proto.graph.node.append(second)
    result, changes = rewritten(proto)
    assert len({change.node for change in changes}) == len(changes) == 2
    inputs = feeds()
    twice = expected("add", {**inputs, "x": expected("add", inputs)})
    assert_allclose(run(result, inputs), twice, atol=1e-5)
