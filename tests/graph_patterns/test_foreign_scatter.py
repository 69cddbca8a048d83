"""Scatters with a reduction as ONNX defines them: any axis, indices from the end, parts of the data, infinities."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from tofu_export.graph_patterns.foreign.rewrite import rewrite
from tofu_export.options import Target
from tofu_export.system.ort import open_session

Sizes = list[Any]
_TWO = {"add": operator.add, "mul": operator.mul, "max": max, "min": min}


def model(
    nodes: list[onnx.NodeProto], inputs: dict[str, tuple[int, Sizes]], output: Sizes, **constants: Any
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "theirs",
        [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
        [helper.make_tensor_value_info("y", next(iter(inputs.values()))[0], output)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def elements(reduction: str, axis: int, data: Sizes, index: Sizes, dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    node = helper.make_node("ScatterElements", ["x", "i", "u"], ["y"], name="join", axis=axis, reduction=reduction)
    return model([node], {"x": (dtype, data), "u": (dtype, index), "i": (TensorProto.INT64, index)}, data)


def joined(reduction: str, axis: int, x: np.ndarray, index: np.ndarray, updates: np.ndarray) -> np.ndarray:
    """In plain loops."""
    result = x.copy()
    for place in np.ndindex(*index.shape):
        target = (*place[:axis], index[place], *place[axis + 1 :])
        result[target] = _TWO[reduction](result[target], updates[place])
    return result


def lowered(proto: onnx.ModelProto, target: Target = Target.TENSORRT_RTX) -> onnx.ModelProto:
    found = ir.from_proto(proto)
    changes = rewrite(found, target)
    assert [change.left for change in changes] == [""]
    result = ir.to_proto(found)
    onnx.checker.check_model(result, full_check=True)
    assert not any(node.op_type.startswith("Scatter") for node in result.graph.node)
    return result


def run(proto: onnx.ModelProto, **feeds: np.ndarray) -> np.ndarray:
    return open_session(proto.SerializeToString()).run(feeds)["y"]


def drawn(data: Sizes, index: Sizes, axis: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(5)
    rows = data[axis]
    return (
        random.standard_normal(data).astype(np.float32),
        random.integers(-rows, rows, index),
        random.standard_normal(index).astype(np.float32),
    )


@pytest.mark.parametrize("reduction", list(_TWO))
@pytest.mark.parametrize(
    ("axis", "data", "index"),
    [
        (0, [6, 2, 3], [4, 2, 3]),
        (2, [2, 3, 6], [2, 3, 4]),
        (-2, [2, 6, 3], [2, 9, 3]),
        (1, [2, 5, 2, 3], [2, 4, 2, 3]),
        (0, [7], [11]),
        (1, [4, 6, 3], [1, 5, 3]),
        (1, [4, 6, 3], [2, 5, 1]),
        (0, [6, 4, 3], [3, 2, 2]),
        (2, [3, 4, 6], [1, 2, 3]),
    ],
    ids=str,
)
def test_any_axis_with_updates_of_any_size(reduction: str, axis: int, data: Sizes, index: Sizes) -> None:
    x, places, updates = drawn(data, index, axis)
    result = lowered(elements(reduction, axis, data, index))
    expected = joined(reduction, axis % len(data), x, places, updates)
    np.testing.assert_allclose(run(result, x=x, i=places, u=updates), expected, atol=1e-5)


@pytest.mark.parametrize("images", [1, 4])
def test_one_row_of_indices_against_a_batch_of_images(images: int) -> None:
    """An index for the first image alone joins nothing to the others, though its shape would broadcast."""
    x, places, updates = drawn([images, 5, 2], [1, 3, 2], 1)
    result = lowered(elements("add", 1, ["b", 5, 2], [1, 3, 2]))
    np.testing.assert_allclose(run(result, x=x, i=places, u=updates), joined("add", 1, x, places, updates), atol=1e-5)


def test_sizes_of_other_names_are_not_taken_for_equal() -> None:
    x, places, updates = drawn([3, 5, 2], [2, 4, 2], 1)
    result = lowered(elements("add", 1, ["b", 5, 2], ["k", 4, 2]))
    np.testing.assert_allclose(run(result, x=x, i=places, u=updates), joined("add", 1, x, places, updates), atol=1e-5)
    assert not any(node.op_type == "Pad" for node in lowered(elements("add", 1, ["b", 5, 2], ["b", 4, 2])).graph.node)


@pytest.mark.parametrize("special", [np.inf, -np.inf, np.nan])
def test_an_infinity_stays_in_the_row_that_it_joins(special: float) -> None:
    """In a product, 0 times infinity would make NaN of all others."""
    x, updates = np.zeros((1, 4, 2), np.float32), np.ones((1, 3, 2), np.float32)
    places = np.array([[[0, 0], [2, 2], [2, 1]]])
    updates[0, 1, 0] = special
    result = lowered(elements("add", 1, [1, 4, 2], [1, 3, 2]))
    wide = lowered(expanded())
    np.testing.assert_array_equal(run(result, x=x, i=places, u=updates), joined("add", 1, x, places, updates))
    column = places[..., :1]
    np.testing.assert_array_equal(
        run(wide, x=x, i=column, u=updates), joined("add", 1, x, np.repeat(column, 2, 2), updates)
    )


def test_both_infinities_make_nan() -> None:
    x, places = np.zeros((1, 4, 2), np.float32), np.array([[[1], [1], [0]]])
    updates = np.array([[[np.inf, np.inf], [-np.inf, 1], [1, 1]]], np.float32)
    result = run(lowered(expanded()), x=x, i=places, u=updates)[0]
    np.testing.assert_array_equal(result, [[1, 1], [np.nan, np.inf], [0, 0], [0, 0]])


def expanded() -> onnx.ModelProto:
    """The same places for all channels."""
    nodes = [
        helper.make_node("Expand", ["i", "shape"], ["wide"]),
        helper.make_node("ScatterElements", ["x", "wide", "u"], ["y"], name="join", axis=1, reduction="add"),
    ]
    inputs = {"x": (1, [1, 4, 2]), "i": (TensorProto.INT64, [1, 3, 1]), "u": (1, [1, 3, 2])}
    return model(nodes, inputs, [1, 4, 2], shape=[1, 3, 2])


def test_updates_behind_a_product_are_added_by_one_product() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["z"]),
        helper.make_node("Slice", ["z", "from", "to", "axis"], ["u"]),
        helper.make_node("ScatterElements", ["x", "i", "u"], ["y"], name="join", axis=1, reduction="add"),
    ]
    proto = model(
        nodes, {"x": (1, [1, 4, 1]), "i": (TensorProto.INT64, [1, 3, 1])}, [1, 4, 1],
        w=np.ones((1, 1), np.float32), **{"from": [0], "to": [3], "axis": [1]},
    )  # fmt: skip
    assert [node.op_type for node in lowered(proto).graph.node].count("MatMul") == 2


@pytest.mark.parametrize("reduction", ["add", "max"])
@pytest.mark.parametrize(("data", "places", "depth"), [([4, 3], [6], 1), ([2, 5, 3], [3, 4], 2), (["n", 5, 3], [7], 2)])
def test_places_from_the_end(reduction: str, data: Sizes, places: Sizes, depth: int) -> None:
    sizes = [3 if size == "n" else size for size in data]
    random = np.random.default_rng(1)
    index = np.stack([random.integers(-size, size, places) for size in sizes[:depth]], axis=-1)
    x = random.standard_normal(sizes).astype(np.float32)
    updates = random.standard_normal([*places, *sizes[depth:]]).astype(np.float32)
    node = helper.make_node("ScatterND", ["x", "i", "u"], ["y"], name="put", reduction=reduction)
    inputs = {"x": (1, data), "i": (TensorProto.INT64, [*places, depth]), "u": (1, [*places, *data[depth:]])}
    result = lowered(model([node], inputs, data))
    expected = x.copy()
    for place in np.ndindex(*places):
        at = tuple(index[place])
        expected[at] = np.vectorize(_TWO[reduction])(expected[at], updates[place])
    np.testing.assert_allclose(run(result, x=x, i=index, u=updates), expected, atol=1e-5)


def test_one_image_number_spread_over_the_batch_is_no_count_of_images() -> None:
    """`Range(0, n)` of one entry, expanded to all images: every one of them joins the first."""
    nodes = [
        helper.make_node("Range", ["zero", "n", "one"], ["range"]),
        helper.make_node("Unsqueeze", ["range", "behind"], ["column"]),
        helper.make_node("Expand", ["column", "shape"], ["first"]),
        helper.make_node("Concat", ["first", "i"], ["places"], axis=-1),
        helper.make_node("ScatterND", ["x", "places", "u"], ["y"], name="put", reduction="add"),
    ]
    whole = TensorProto.INT64
    inputs = {"x": (1, [3, 4, 2]), "i": (whole, [3, 5, 1]), "u": (1, [3, 5, 2]), "n": (whole, [])}
    result = lowered(model(nodes, inputs, [3, 4, 2], zero=0, one=1, behind=[1, 2], shape=[3, 5, 1]))
    random = np.random.default_rng(2)
    x, u = random.standard_normal((3, 4, 2), np.float32), random.standard_normal((3, 5, 2), np.float32)
    index = random.integers(0, 4, (3, 5, 1))
    expected = x.copy()
    for image, row in np.ndindex(3, 5):
        expected[0, index[image, row, 0]] += u[image, row]
    np.testing.assert_allclose(run(result, x=x, i=index, u=u, n=np.array(1)), expected, atol=1e-5)


def test_another_type_is_left() -> None:
    found = ir.from_proto(elements("add", 0, [4, 2], [3, 2], TensorProto.UINT8))
    (change,) = rewrite(found, Target.TENSORRT)
    assert change.left == "it reduces UINT8"


@pytest.mark.parametrize(("size", "left"), [(4096, False), (8192, True)])
def test_a_sum_over_more_rows_than_fit_into_memory_is_left(size: int, left: bool) -> None:
    """Its one-hot matrix has a number for each of them and each update: 16 GB for 65,536."""
    (change,) = rewrite(ir.from_proto(elements("add", 0, [size, 1], [size, 1])), Target.TENSORRT)
    assert ("8192 x 8192 numbers" in change.left) == left


def test_rows_without_channels_are_left() -> None:
    node = helper.make_node("ScatterND", ["x", "i", "u"], ["y"], name="put", reduction="add")
    (change,) = rewrite(ir.from_proto(model([node], {"x": (1, [3, 0]), "i": (7, [2, 1]), "u": (1, [2, 0])}, [3, 0])),
                        Target.TENSORRT)  # fmt: skip
    assert change.left == "what it reduces onto is empty"
