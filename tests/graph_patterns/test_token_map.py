"""Fuse nodes that follow the token map, and the node that restores the grid, alone in a graph, against the oracle."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.testing import assert_array_equal
from onnx import TensorProto, helper

from tests import reference
from tests.graph_patterns.formulations import FORMULATIONS, REFUSED_BY_TENSORRT, TYPES, as_model, normal
from tofu_export.errors import LoweringError
from tofu_export.graph_patterns.canonical import COMPANIONS
from tofu_export.graph_patterns.lowering import lower
from tofu_export.options import Precision, Target
from tofu_export.system.ort import open_session

CHANNELS, DIM, BEFORE = 16, 8, 21
"""BEFORE: tokens of the original sequence, some of which have left already."""
KINDS = {"sizes": TensorProto.FLOAT, **dict.fromkeys(("positions", "rows", "groups"), TensorProto.INT64)}
PORTABLE = (Target.PORTABLE, Precision.FP32)


def mapped(
    method: str, tokens: int, prefix: int, removed: int, companions: tuple[str, ...], precision: Precision
) -> onnx.ModelProto:
    kind = TYPES[precision]

    def length(name: str, whole: int) -> int:
        return BEFORE if name in ("rows", "groups") else whole

    inputs = [
        helper.make_tensor_value_info("x", kind, ["batch", tokens, CHANNELS]),
        helper.make_tensor_value_info("metric", kind, ["batch", tokens, DIM]),
        *(helper.make_tensor_value_info(name, KINDS[name], ["batch", length(name, tokens), 1]) for name in companions),
    ]
    out = tokens - removed
    outputs = [
        helper.make_tensor_value_info("fused", kind, ["batch", out, CHANNELS]),
        *(helper.make_tensor_value_info(f"new_{name}", KINDS[name], ["batch", length(name, out), 1])
          for name in companions),
    ]  # fmt: skip
    node = helper.make_node(
        "Fuse",
        ["x", "metric", *(name if name in companions else "" for name in COMPANIONS)],
        [value.name for value in outputs],
        name="reduction",
        domain="tofu",
        r=removed,
        method=method,
        prefix=prefix,
        tokens=tokens,
        layer=2,
        pruned_sizes="take-over",
    )
    return as_model([node], inputs, outputs)


@pytest.mark.e2e
@FORMULATIONS
@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
@pytest.mark.parametrize(
    "companions", [("rows",), ("groups",), ("sizes", "rows"), ("positions", "rows"), COMPANIONS], ids="-".join
)
@pytest.mark.parametrize("method", reference.METHODS)
def test_maps_follow_the_tokens(
    form: tuple[Target, Precision], method: str, companions: tuple[str, ...], prefix: int
) -> None:
    if method in reference.WEIGHED and "sizes" not in companions:
        return  # it cannot do without sizes
    for tokens, removed in itertools.product((14, 15), (1, 4, (14 - prefix) // 2)):
        model = lower(ir.from_proto(mapped(method, tokens, prefix, removed, companions, form[1])), *form)
        proto = ir.to_proto(model)
        onnx.checker.check_model(proto, full_check=True)
        session = open_session(proto.SerializeToString(), threads=1)
        dtype = session.inputs["x"].dtype
        random = np.random.default_rng(3)
        feeds = {
            "x": normal(1, 3, tokens, CHANNELS).astype(dtype),
            "metric": normal(2, 3, tokens, DIM).astype(dtype),
            "sizes": random.integers(1, 9, size=(3, tokens, 1)).astype(np.float32),
            "positions": random.integers(0, 99, size=(3, tokens, 1)),
            "rows": random.integers(0, tokens, size=(3, BEFORE, 1)),
            "groups": random.integers(0, tokens + 1, size=(3, BEFORE, 1)),
        }
        out = session.run({name: feeds[name] for name in session.inputs})
        for image in range(3):
            matching = reference.match(feeds["metric"][image], prefix, removed)
            if "rows" in companions:
                row_of = reference.stand_ins([matching], prefix, tokens)
                expected = [row_of[row] for row in feeds["rows"][image, :, 0].tolist()]
                assert out["new_rows"][image, :, 0].tolist() == expected
            if "groups" in companions:  # counted from 1, 0 for none
                group_of = [0, *(row + 1 for row in reference.groups([matching], [method], prefix, tokens))]
                expected = [group_of[row] for row in feeds["groups"][image, :, 0].tolist()]
                assert out["new_groups"][image, :, 0].tolist() == expected
            order = [*range(prefix), *matching.kept, *matching.destinations]
            if "positions" in companions:
                assert_array_equal(out["new_positions"][image], feeds["positions"][image, order])
            if method == "prune":
                assert_array_equal(out["fused"][image], feeds["x"][image, order])


@pytest.mark.parametrize("method", ["prune", "mlerp"])
def test_it_is_made_of_operators_that_tensorrt_knows(method: str) -> None:
    model = lower(ir.from_proto(mapped(method, 15, 1, 4, ("rows", "groups"), Precision.FP32)), *PORTABLE)
    for node in model.graph:
        assert node.op_type not in REFUSED_BY_TENSORRT
        if node.op_type == "ScatterElements":
            assert "reduction" not in node.attributes


def names_in(method: str, companions: tuple[str, ...]) -> set[str]:
    model = lower(ir.from_proto(mapped(method, 15, 1, 4, companions, Precision.FP32)), *PORTABLE)
    return {str(value.name).removeprefix("blocks.2/fuse/") for node in model.graph for value in node.outputs}


def test_pruning_needs_no_targets_for_groups() -> None:
    """It is ranked as in a file without them; merging lists what leaves."""
    assert "match/rank" in names_in("prune", ("groups",))
    assert not {"match/target", "match/assigned"} & names_in("prune", ("groups",))
    assert {"match/matched", "match/target"} <= names_in("mlerp", ("groups",))
    assert {"match/matched", "match/target"} <= names_in("prune", ("rows", "groups"))
    assert not any(name.startswith("groups") for name in names_in("mlerp", ("rows",)))


def without_tokens(companions: tuple[str, ...]) -> onnx.ModelProto:
    proto = mapped("mlerp", 15, 1, 4, companions, Precision.FP32)
    proto.graph.node[0].input[0] = ""
    proto.graph.value_info.append(proto.graph.output[0])
    del proto.graph.output[0], proto.graph.input[0]
    return proto


def test_a_reduction_without_tokens_gives_maps_alone() -> None:
    model = lower(ir.from_proto(without_tokens(("groups",))), *PORTABLE)
    names = {str(value.name) for node in model.graph for value in node.outputs}
    assert "blocks.2/fuse/match/kept" in names
    assert not any("/tokens" in name or "/merge/" in name for name in names)
    session = open_session(ir.to_proto(model).SerializeToString())
    metric, groups = normal(2, 2, 15, DIM), np.tile(np.arange(16).reshape(1, 16, 1), (2, 1, 1))[:, : BEFORE - 5]
    assert tuple(session.inputs) == ("metric", "groups")
    got = session.run({"metric": metric, "groups": np.concatenate([groups, groups[:, :5]], axis=1)})["new_groups"]
    for image in range(2):
        rows = reference.groups([reference.match(metric[image], 1, 4)], ["mlerp"], 1, 15)
        assert got[image, :16, 0].tolist() == [0, *(row + 1 for row in rows)]


@pytest.mark.parametrize("companions", [("sizes", "groups"), ("positions",)])
def test_companions_that_move_need_tokens(companions: tuple[str, ...]) -> None:
    with pytest.raises(LoweringError, match=r"node .*tofu::Fuse.*see graph_patterns/canonical\.py"):
        lower(ir.from_proto(without_tokens(companions)), *PORTABLE)


def test_restoring_takes_whole_rows() -> None:
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 5, 4]),
        helper.make_tensor_value_info("rows", TensorProto.INT64, ["batch", 9, 1]),
    ]
    output = helper.make_tensor_value_info("restored", TensorProto.FLOAT, ["batch", 9, 4])
    node = helper.make_node("Restore", ["x", "rows"], ["restored"], name="blocks.2/Restore", domain="tofu")
    model = lower(ir.from_proto(as_model([node], inputs, [output])), *PORTABLE)
    assert [node.op_type for node in model.graph] == ["GatherND"]
    x, rows = normal(1, 2, 5, 4), np.random.default_rng(0).integers(0, 5, size=(2, 9, 1))
    got = open_session(ir.to_proto(model).SerializeToString()).run({"x": x, "rows": rows})["restored"]
    for image, place in itertools.product(range(2), range(9)):
        assert_array_equal(got[image, place], x[image, rows[image, place, 0]])


def test_a_companion_without_its_output_is_refused() -> None:
    proto = mapped("mlerp", 15, 1, 4, ("sizes", "rows"), Precision.FP32)
    del proto.graph.node[0].output[2], proto.graph.output[2]
    with pytest.raises(LoweringError, match=r"portable: node .*tofu::Fuse.*5 inputs and 2 outputs"):
        lower(ir.from_proto(proto), *PORTABLE)
