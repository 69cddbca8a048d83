"""Each kind of output as a file: the eager model at every batch size, the token map to the last entry."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from numpy.testing import assert_array_equal
from torch import nn

from tests import families, tiny
from tests.engines.rtx import needs_rtx, rtx
from tests.sampling import sampled
from tofu_export import patch
from tofu_export.engines.building.build import EngineRequest, build_engine
from tofu_export.engines.flavours import RTX
from tofu_export.errors import OptionError, VerificationError
from tofu_export.graph_patterns.canonical import is_decision
from tofu_export.graph_patterns.lowering import census, lower
from tofu_export.options import BatchRange, Mode, OutputKind, Precision, Reduction, Target
from tofu_export.patch import outputs_of
from tofu_export.planning.plan import make_plan
from tofu_export.system.ort import open_session
from tofu_export.trace.export import save, trace
from tofu_export.verification.eager import verify
from tofu_export.verification.result import VerificationResult

LOGITS, FEATURES, TOKENS, GRID = OutputKind
BATCHES = BatchRange(1, 2, 7)
SOME = {"r": (3, 2, 4), "pattern": "PAM"}
TOME = {"r": 3, "mode": Mode.TOME}
MODELS = ["avg", "registers", "eva-rope-mixed", "relpos-table", "cait"]
"""No prefix; a class token and registers; rotary; relative bias; a class token that joins later."""
OFTEN = [
    ("eva-rope-mixed", TOKENS, None, False), ("registers", GRID, True, False), ("cait", TOKENS, None, False),
    ("avg", LOGITS, True, False), ("registers", FEATURES, None, False), ("relpos-table", TOKENS, None, True),
    ("cait", GRID, True, True),
]  # fmt: skip
"""Of the cases below those of every run: each kind, each model, and both ways of merging."""
CASES = [
    *((name, kind, kind is GRID or None, False) for kind in (TOKENS, GRID) for name in MODELS),
    *((name, LOGITS, True, False) for name in ("avg", "registers", "cait")),
    *((name, FEATURES, None, False) for name in ("registers", "cait")),
    *((name, TOKENS, None, True) for name in ("eva-rope-mixed", "relpos-table")),
    ("registers", TOKENS, True, False),
    ("cait", GRID, True, True),
]
"""Model, kind, whether the grid is restored, and whether ToMe reduces: tracing each takes seconds."""


@cache
def traced(name: str, kind: OutputKind, restore: bool | None, tome: bool, precision: Precision) -> bytes:
    graph = trace(model_of(name, restore, tome), tiny.SHAPE, output=kind, batch=BATCHES, precision=precision)
    return tiny.to_bytes(graph)


def model_of(name: str, restore: bool | None, tome: bool) -> nn.Module:
    module = tiny if name in tiny.MODELS else families
    reduction = Reduction(**(TOME if tome else SOME), restore_grid=restore)
    return patch.apply(module.build(name), make_plan(module.spec(name), reduction))


def lowered(
    name: str,
    kind: OutputKind,
    restore: bool | None,
    tome: bool = False,
    target: Target = Target.PORTABLE,
    precision: Precision = Precision.FP32,
) -> ir.Model:
    return lower(tiny.from_bytes(traced(name, kind, restore, tome, precision)), target, precision)


def checked(
    path: Path, model: nn.Module, kind: OutputKind, precision: Precision = Precision.FP32
) -> VerificationResult:
    pixels = tiny.pixels(10, seed=1)
    return verify(path, model, pixels, precision=precision, batch=BATCHES, source="random", output=kind)


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("name", "kind", "restore", "tome"),
    sampled(CASES, OFTEN),
    ids=[f"{name}-{kind.value}{'-restored' * bool(restore)}{'-tome' * tome}" for name, kind, restore, tome in CASES],
)
def test_the_file_is_the_eager_model(
    name: str, kind: OutputKind, restore: bool | None, tome: bool, tmp_path: Path
) -> None:
    target = Target.ONNXRUNTIME if tome else Target.PORTABLE
    graph = lowered(name, kind, restore, tome, target)
    onnx.checker.check_model(ir.to_proto(graph), full_check=True)
    path = tmp_path / "model.onnx"
    save(graph, path, {})
    model = model_of(name, restore, tome)
    result = checked(path, model, kind)
    assert result.passed, result.failure()
    assert result.batches == (1, 2, 3, 7)
    assert result.decisions.compared > 0
    assert (result.to_dict()["token_map"] is None) == (kind is not TOKENS)
    # Decisions of an unlucky seed may flip, and then only the replay above can compare. This seed has none.
    session = open_session(path)
    assert tuple(session.outputs) == kind.names
    for batch in (1, 2, 7):
        pixels = tiny.pixels(batch, seed=2)
        with torch.no_grad():
            expected = [value.numpy() for value in outputs_of(model, kind, torch.from_numpy(pixels))]
        for got, right in zip(session.run({"input": pixels}).values(), expected, strict=True):
            assert (got.shape, got.dtype) == (right.shape, right.dtype)
            if right.dtype == np.int64:
                assert_array_equal(got, right)
            else:
                assert np.abs(got - right).max() < 2e-5 * np.abs(right).max()


@pytest.mark.e2e
@pytest.mark.parametrize("kind", [TOKENS, GRID])
def test_half_precision(kind: OutputKind, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    save(lowered("registers", kind, kind is GRID or None, precision=Precision.FP16), path, {})
    result = checked(path, model_of("registers", kind is GRID or None, tome=False), kind, Precision.FP16)
    assert result.passed, result.failure()


@pytest.mark.e2e
@pytest.mark.parametrize("kind", list(OutputKind))
def test_nothing_removed_is_the_plain_graph(kind: OutputKind) -> None:
    """With and without a plan that removes nothing: the same nodes, and a map that is the identity."""
    model = tiny.build("cls")
    plain = lower(trace(model, tiny.SHAPE, output=kind), Target.PORTABLE, Precision.FP32)
    patch.apply(model, tiny.plan_of("cls", Reduction(r=0, restore_grid=True)))
    patched = lower(trace(model, tiny.SHAPE, output=kind), Target.PORTABLE, Precision.FP32)
    assert census(patched) == census(plain)
    assert not {"GatherND", "ScatterElements"} & census(patched).keys()
    x = tiny.pixels(3)
    runs = [open_session(tiny.to_bytes(graph)).run({"input": x}) for graph in (plain, patched)]
    for name in kind.names:
        assert_array_equal(runs[0][name], runs[1][name])
    if kind is TOKENS:
        assert_array_equal(runs[0]["token_map"], np.tile(np.arange(17), (3, 1)))


def test_what_is_not_used_is_not_in_the_file() -> None:
    weights = set(lowered("registers", FEATURES, None).graph.initializers)
    assert not any(name.startswith("head") for name in weights)
    assert any(name.startswith("norm") for name in weights)


def test_a_restored_grid_costs_one_gather_and_lists_targets() -> None:
    """The map is not in files that do not need it."""
    names = {value.name for node in lowered("registers", FEATURES, None).graph for value in node.outputs}
    decided = {str(name) for name in names if is_decision(str(name))}
    found = {name for name in decided if "blocks.0" in name}
    assert found == {f"blocks.0/fuse/match/{kind}" for kind in ("kept", "assigned")}  # for the sizes
    assert not any("/map" in str(name) for name in names)
    grid = lowered("registers", GRID, True)
    names = {value.name for node in grid.graph for value in node.outputs}
    assert {f"blocks.0/fuse/match/{kind}" for kind in ("kept", "matched", "target")} <= names
    assert "blocks.2/fuse/map/followed" in names
    assert len([node for node in grid.graph if "Restore" in str(node.name)]) == 1


def test_a_model_without_a_classifier_gives_features_by_name() -> None:
    model = tiny.build("cls", num_classes=0)
    assert [value.name for value in trace(model, tiny.SHAPE).graph.outputs] == ["features"]
    with pytest.raises(OptionError, match=r"no classifier.*features"):
        trace(model, tiny.SHAPE, output=LOGITS)
    with pytest.raises(OptionError, match=r"restore_grid=True"):
        trace(model_of("cls", None, tome=False), tiny.SHAPE, output=GRID)


# --- What must fail ----------------------------------------------------------------------------------------------


def broken(proto: onnx.ModelProto, output: str, replacement: str) -> None:
    """Make everybody who reads a value read another one."""
    for node in proto.graph.node:
        for index, name in enumerate(node.input):
            if name == output:
                node.input[index] = replacement


@pytest.mark.e2e
def test_a_wrong_map_fails_though_the_tokens_are_right(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    save(lowered("cls", TOKENS, None), path, {})
    proto = onnx.load(path)
    broken(proto, "blocks.2/fuse/map/rows", "blocks.2/fuse/map/sources")
    onnx.save(proto, path)
    result = checked(path, model_of("cls", None, tome=False), TOKENS)
    assert result.outputs.within(result.tolerance)
    assert result.decisions.wrong == 0
    assert not result.passed
    with pytest.raises(VerificationError, match=r"integers \(token map, counts\) are not what the decisions make"):
        raise result.failure()


@pytest.mark.e2e
def test_a_pruned_token_must_stand_at_its_nearest(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    save(lowered("cls", TOKENS, None), path, {})
    proto = onnx.load(path)
    (nearest,) = (node for node in proto.graph.node if "blocks.0/fuse/match/nearest" in node.output)
    nearest.op_type = "ArgMin"
    onnx.save(proto, path)
    result = checked(path, model_of("cls", None, tome=False), TOKENS)
    assert result.decisions.wrong > 0
    assert not result.passed


def test_outputs_of_another_kind_fail(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    save(lowered("cls", TOKENS, None), path, {})
    with pytest.raises(VerificationError, match=r"tokens.*expected grid"):
        checked(path, model_of("cls", True, tome=False), GRID)


# --- Engines -----------------------------------------------------------------------------------------------------


@pytest.mark.e2e
@rtx
@needs_rtx
@pytest.mark.parametrize("kind", [TOKENS, GRID])
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
def test_tensorrt_rtx_builds_it(kind: OutputKind, precision: Precision, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    save(lowered("registers", kind, kind is GRID or None, tome=True, precision=precision), path, {})
    receipt = build_engine(EngineRequest(path, tmp_path / "model.engine", RTX, BATCHES, precision))
    assert receipt.engine_bytes > 0
    assert receipt.kernels.summary().unparsed_lines == 0
