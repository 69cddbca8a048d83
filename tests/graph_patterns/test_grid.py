"""Reductions on a grid as ONNX: the same decisions and numbers as the eager ones, in forms that TensorRT accepts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from tofu_export.diffusion.matching import match_grid, merge_grid, unmerge_grid
from tofu_export.diffusion.options import UnetReduction
from tofu_export.diffusion.plan import BlockPlan, destinations_of
from tofu_export.engines.building.build import EngineRequest, build_engine
from tofu_export.engines.flavours import RTX
from tofu_export.errors import LoweringError
from tofu_export.graph_patterns.fuse.matching import MAX_TOPK
from tofu_export.graph_patterns.grid import match as grid_match
from tofu_export.graph_patterns.grid.lowering import lower_grids
from tofu_export.options import BatchRange, Method
from tofu_export.system.ort import open_session

C = 6
METHODS = [Method.PRUNE, Method.AVERAGE, Method.MLERP, Method.TOME]


def block(height: int, width: int, removed: int, method: Method) -> BlockPlan:
    return BlockPlan(
        0, "b", height, width, 1, method, removed, destinations_of(height, width, UnetReduction(ratio=0.1))
    )


def canonical(plan: BlockPlan, dtype: ir.DataType = ir.DataType.FLOAT, merges: int = 1) -> ir.Model:
    """x -> match, merge, unmerge; outputs of every step."""
    attributes = [
        ir.AttrInt64("tokens", plan.tokens),
        ir.AttrInt64s("destinations", list(plan.destinations)),
        ir.AttrInt64("r", plan.removed),
        ir.AttrString("method", plan.method.word),
        ir.AttrString("block", plan.path),
    ]
    x = ir.Value(name="x", type=ir.TensorType(dtype), shape=ir.Shape(["batch", plan.tokens, C]))
    match = ir.Node("tofu", "GridMatch", [x], attributes, num_outputs=2 if plan.kept else 1, name="match")
    nodes, outputs = [match], [match.outputs[0]]
    match.outputs[0].name = "rows"
    for index in range(merges):
        merge = ir.Node("tofu", "GridMerge", [x, *match.outputs], attributes, name=f"merge{index}")
        merge.outputs[0].name = f"reduced{index}"
        merge.outputs[0].dtype = dtype
        unmerge = ir.Node("tofu", "GridUnmerge", [merge.outputs[0], match.outputs[0]], [], name=f"unmerge{index}")
        unmerge.outputs[0].name = f"restored{index}"
        nodes += [merge, unmerge]
        outputs += [merge.outputs[0], unmerge.outputs[0]]
    for out in outputs:
        out.dtype = ir.DataType.INT64 if out.name == "rows" else dtype
    graph = ir.Graph([x], outputs, nodes=nodes, opset_imports={"": 18, "tofu": 1}, name="grid")
    return ir.Model(graph, ir_version=9)


def run(model: ir.Model, x: np.ndarray) -> dict[str, Any]:
    return open_session(ir.to_proto(model).SerializeToString()).run({"x": x})


def tokens(count: int, batch: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((batch, count, C), dtype=np.float32)


def compare(plan: BlockPlan, x: np.ndarray) -> None:
    model = canonical(plan)
    assert lower_grids(model) == 3
    got = run(model, x)
    found = match_grid(torch.from_numpy(x), plan)
    reduced = merge_grid(torch.from_numpy(x), found, plan)
    np.testing.assert_array_equal(got["rows"], found.rows.numpy())
    np.testing.assert_allclose(got["reduced0"], reduced.numpy(), atol=2e-6)
    np.testing.assert_allclose(got["restored0"], unmerge_grid(reduced, found).numpy(), atol=2e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("height", "width", "removed"), [(4, 4, 8), (4, 4, 12), (5, 7, 17), (3, 3, 1)])
def test_equals_the_eager_reduction(height: int, width: int, removed: int, method: Method) -> None:
    for batch in (1, 3):
        compare(block(height, width, removed, method), tokens(height * width, batch))


@pytest.mark.parametrize("method", [Method.PRUNE, Method.MLERP])
def test_equal_tokens_are_tied_alike(method: Method) -> None:
    x = np.ones((2, 35, C), dtype=np.float32)
    x[:, ::3] *= -1
    compare(block(5, 7, 17, method), x)


@pytest.mark.parametrize("limit", [1, 4, 5, 10, 11])
def test_more_than_a_topk_gives(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """12 sources stay; with ties, too, the list is what one TopK would give."""
    monkeypatch.setattr(grid_match, "MAX_TOPK", limit)
    plan = block(5, 7, 17, Method.MLERP)
    assert plan.kept == 12
    compare(plan, tokens(35, 2))
    compare(plan, np.ones((2, 35, C), dtype=np.float32))


def topk_sizes(model: ir.Model) -> list[int]:
    found = []
    for node in model.graph:
        if node.op_type == "TopK":
            k = node.inputs[1]
            assert k is not None
            tensor = ir.convenience.get_const_tensor(k)
            assert tensor is not None
            found.append(int(tensor.numpy()[0]))
    return found


@pytest.mark.parametrize(
    ("side", "ratio", "sizes"),
    [(64, 0.5, [1024]), (96, 0.5, [2304]), (128, 0.5, [3840, 256]), (128, 0.6, [2458]), (128, 0.25, [3840, 3840, 512])],
)
def test_no_topk_asks_for_more_than_tensorrt_sorts(side: int, ratio: float, sizes: list[int]) -> None:
    model = canonical(block(side, side, int(side * side * ratio), Method.PRUNE))
    lower_grids(model)
    assert topk_sizes(model) == sizes
    assert max(sizes) <= MAX_TOPK


def test_nothing_scatters_with_a_reduction() -> None:
    model = canonical(block(8, 8, 32, Method.MLERP))
    lower_grids(model)
    scatters = [node for node in model.graph if node.op_type.startswith("Scatter")]
    assert scatters
    assert all("reduction" not in node.attributes for node in scatters)


def test_half_precision_keeps_norms_and_cosines_in_float32() -> None:
    plan = block(4, 4, 8, Method.MLERP)
    model = canonical(plan, ir.DataType.FLOAT16)
    lower_grids(model)
    x = (tokens(16, 2) * 300).astype(np.float16)  # squares overflow in half precision
    got = run(model, x)
    found = match_grid(torch.from_numpy(x), plan)
    np.testing.assert_array_equal(got["rows"], found.rows.numpy())
    assert got["reduced0"].dtype == np.float16
    expected = merge_grid(torch.from_numpy(x), found, plan).numpy()
    np.testing.assert_allclose(got["reduced0"], expected, rtol=2e-3, atol=1)


def test_several_merges_of_one_block_have_names_of_their_own() -> None:
    model = canonical(block(4, 4, 8, Method.AVERAGE), merges=3)
    assert lower_grids(model) == 7
    names = [value.name for node in model.graph for value in node.outputs]
    assert len(set(names)) == len(names)
    got = run(model, tokens(16, 2))
    np.testing.assert_array_equal(got["restored0"], got["restored2"])


def test_decisions_have_the_names_that_verification_reads() -> None:
    model = canonical(block(4, 4, 8, Method.PRUNE))
    lower_grids(model)
    names = {value.name for node in model.graph for value in node.outputs}
    assert {"b/tofu/match/kept", "b/tofu/match/nearest"} <= names


def test_graphs_without_grids_are_left_alone() -> None:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1]))
    node = ir.Node("", "Relu", [x], name="relu")
    model = ir.Model(ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 18}), ir_version=9)
    assert lower_grids(model) == 0
    assert [kept.op_type for kept in model.graph] == ["Relu"]


@pytest.mark.parametrize("damage", ["method", "r", "inputs"])
def test_what_cannot_be_lowered_is_named(damage: str) -> None:
    model = canonical(block(4, 4, 8, Method.PRUNE))
    match, merge, _ = list(model.graph)
    if damage == "method":
        match.attributes["method"] = ir.AttrString("method", "shuffle")
    elif damage == "r":
        match.attributes["r"] = ir.AttrInt64("r", 13)
    else:
        merge.resize_inputs(1)
    with pytest.raises(LoweringError, match=r"node (match|merge0) \(tofu::Grid"):
        lower_grids(model)


@pytest.mark.rtx
def test_tensorrt_rtx_builds_a_grid_of_128_at_one_half(tmp_path: Path) -> None:
    """4,096 sources stay, more than one TopK gives."""
    pytest.importorskip("tensorrt_rtx")
    model = canonical(block(128, 128, 8192, Method.MLERP))
    lower_grids(model)
    ir.save(model, tmp_path / "grid.onnx")
    receipt = build_engine(
        EngineRequest(
            onnx_path=tmp_path / "grid.onnx", engine_path=tmp_path / "grid.engine", flavour=RTX,
            batch=BatchRange(1, 1, 2), compute_capabilities=("SM89",),
        )
    )  # fmt: skip
    assert receipt.engine_bytes > 0
