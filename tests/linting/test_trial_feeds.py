"""Inputs for a comparison: indices from the end that repeat, mixed masks, closed rows, infinities."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tofu_export.linting.trial_feeds import Trials
from tofu_export.system.ort import open_session

Inputs = dict[str, tuple[int, list[Any]]]


def trials(nodes: list[onnx.NodeProto], inputs: Inputs, output: tuple[int, list[Any]], opset: int = 18) -> Trials:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
        [helper.make_tensor_value_info("y", *output)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=11)
    return Trials(model, "m.onnx", open_session(model.SerializeToString()).inputs, None, 0)


def scattered() -> Trials:
    nodes = [
        helper.make_node("Cast", ["i"], ["wide"], to=TensorProto.INT64),
        helper.make_node("ScatterElements", ["x", "wide", "u"], ["y"], axis=1, reduction="add"),
    ]
    inputs: Inputs = {"x": (1, ["b", 6, 2]), "i": (TensorProto.INT32, ["b", 40, 2]), "u": (1, ["b", 40, 2])}
    return trials(nodes, inputs, (1, ["b", 6, 2]))


def test_places_cover_the_axis_from_its_end_and_repeat() -> None:
    widest, from_zero, plain = scattered().draws(3)
    for draws, low in ((widest, -6), (from_zero, 0)):
        for feeds in draws:
            places = feeds["i"]
            assert places.dtype == np.int32
            assert places.shape == (3, 40, 2)
            assert (places.min(), places.max()) == (low, 5)
    assert np.isinf(widest[1]["u"]).sum() == 1
    assert np.isfinite(widest[0]["u"]).all()
    assert (plain[0]["i"] == 1).all()


def test_every_coordinate_of_a_place_has_its_own_range() -> None:
    node = helper.make_node("GatherND", ["x", "i"], ["y"])
    found = trials([node], {"x": (1, ["b", 9, 2]), "i": (TensorProto.INT64, [50, 2])}, (1, [50, 2]))
    places = next(iter(found.draws(4)))[0]["i"]
    assert (places.min(axis=0).tolist(), places.max(axis=0).tolist()) == ([-4, -9], [3, 8])


def test_masks_are_mixed_and_have_a_closed_row() -> None:
    node = helper.make_node("Where", ["m", "x", "x"], ["y"])
    found = trials([node], {"x": (1, ["b", 5, 7]), "m": (TensorProto.BOOL, ["b", 5, 7])}, (1, ["b", 5, 7]))
    for feeds in next(iter(found.draws(2))):
        assert not feeds["m"][0, 0].any()
        assert feeds["m"][-1, -1].all()
        assert 0.2 < feeds["m"].mean() < 0.8


def test_a_condition_has_both_values() -> None:
    identity = helper.make_graph([helper.make_node("Identity", ["x"], ["a"])], "a", [],
                                 [helper.make_tensor_value_info("a", 1, [2])])  # fmt: skip
    node = helper.make_node("If", ["c"], ["y"], then_branch=identity, else_branch=identity)
    found = trials([node], {"x": (1, [2]), "c": (TensorProto.BOOL, [])}, (1, [2]))
    assert {bool(feeds["c"]) for feeds in next(iter(found.draws(2)))} == {True, False}


def test_a_mask_of_numbers_is_infinite_where_it_is_closed() -> None:
    node = helper.make_node("Attention", ["q", "k", "v", "m"], ["y"])
    inputs: Inputs = {name: (1, ["b", 2, 4, 8]) for name in "qkv"}
    found = trials([node], {**inputs, "m": (1, [4, 4])}, (1, ["b", 2, 4, 8]), opset=23)
    mask = next(iter(found.draws(1)))[1]["m"]
    assert np.isneginf(mask[0]).all()
    assert np.isfinite(mask[-1]).all()


def test_thresholds_are_passed_where_the_graph_compares() -> None:
    nodes = [helper.make_node("Greater", ["x", "x"], ["g"]), helper.make_node("Cast", ["g"], ["y"], to=1)]
    first, second = next(iter(trials(nodes, {"x": (1, [4, 100])}, (1, [4, 100])).draws(4)))
    assert np.abs(second["x"]).max() > 2 * np.abs(first["x"]).max()


def test_a_file_of_plain_numbers_is_run_once() -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    assert [len(draws) for draws in trials([node], {"x": (1, [4, 2])}, (1, [4, 2])).draws(4)] == [1, 1, 1]
