"""From a patched model to a file: what the graph holds, what the file promises, and that both are the model."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import Tensor, nn

from tests import tiny
from tofu_export import patch
from tofu_export.artifact import onnx_file
from tofu_export.errors import ExportError
from tofu_export.graph_patterns.canonical import FuseNode
from tofu_export.graph_patterns.lowering import census, lower
from tofu_export.options import BatchRange, Method, Precision, PrunedSizes, Reduction, Target
from tofu_export.system.ort import open_session
from tofu_export.trace.export import INPUT_NAME, OUTPUT_NAME, in_precision, release, save, trace

AMOUNTS = (3, 2, 4)
SOME = Reduction(r=AMOUNTS, pattern="PAM")
TOME = Reduction(r=AMOUNTS, pattern="TTT")


def images(count: int = 2, seed: int = 0) -> Tensor:
    return torch.from_numpy(tiny.pixels(count, seed))


def eager(name: str, reduction: Reduction, x: Tensor) -> np.ndarray:
    with torch.no_grad():
        return tiny.reduced(name, reduction)(x).numpy()


def canonical_nodes(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.domain == "tofu"]


def attributes(node: ir.Node) -> dict[str, Any]:
    return {name: attribute.value for name, attribute in node.attributes.items() if isinstance(attribute, ir.Attr)}


# --- The canonical graph -----------------------------------------------------------------------------------------


@pytest.mark.e2e
@pytest.mark.parametrize(("name", "prefix"), [("cls", 1), ("registers", 5), ("distilled", 2), ("avg", 0)])
def test_one_fuse_for_each_reducing_layer(name: str, prefix: int) -> None:
    graph = tiny.canonical(name, SOME)
    assert census(graph)["tofu::Fuse"] == 3
    assert (census(graph)["tofu::Attention"], census(graph)["tofu::BiasedAttention"]) == (1, 2)  # no sizes before r
    fuses = [node for node in canonical_nodes(graph) if node.op_type == "Fuse"]
    tokens = 16 + prefix
    for layer, (node, removed, method) in enumerate(zip(fuses, AMOUNTS, ("prune", "average", "mlerp"), strict=True)):
        facts = {"r": removed, "method": method, "prefix": prefix, "tokens": tokens, "layer": layer}
        facts |= {"pruned_sizes": "take-over"}
        assert attributes(node) == facts
        given = [value for value in node.inputs if value is not None]
        assert [list(value.shape)[1:] for value in given] == [[tokens, 24], [tokens, 8], [tokens, 1]]
        tokens -= removed
        assert list(node.outputs[0].shape)[1:] == [tokens, 24]


def test_sizes_travel_from_block_to_block() -> None:
    graph = tiny.canonical("cls", TOME)
    kinds = [node.op_type for node in canonical_nodes(graph) if node.op_type != "Gelu"]
    assert kinds == ["Attention", "Fuse", "BiasedAttention", "Fuse", "BiasedAttention", "Fuse"]
    fuses = [node for node in canonical_nodes(graph) if node.op_type == "Fuse"]
    assert [list(FuseNode.companions_of(node)) for node in fuses] == [["sizes"]] * 3
    assert fuses[1].inputs[2] is fuses[0].outputs[1]
    assert fuses[2].inputs[2] is fuses[1].outputs[1]
    assert all(node.outputs[1].dtype == ir.DataType.FLOAT for node in fuses)


def test_a_layer_that_removes_nothing_has_no_fuse() -> None:
    """Traced as it is, so that the methods too come from the trace and not from `tiny.canonical`."""
    graph = trace(tiny.reduced("cls", Reduction(r=(3, 7, 4), pattern="P-A")), tiny.SHAPE)
    fuses = [node for node in canonical_nodes(graph) if node.op_type == "Fuse"]
    assert [(attributes(node)["layer"], attributes(node)["method"]) for node in fuses] == [(0, "prune"), (2, "average")]
    assert attributes(fuses[1])["tokens"] == 14


@pytest.mark.e2e
@pytest.mark.parametrize("pattern", ["PAM", "TPM"])
def test_methods_differ_in_one_attribute_alone(pattern: str) -> None:
    reduction = Reduction(r=AMOUNTS, pattern=pattern)
    traced = lower(trace(tiny.reduced("cls", reduction), tiny.SHAPE), Target.PORTABLE, Precision.FP32)
    assert tiny.to_bytes(tiny.lowered("cls", reduction)) == tiny.to_bytes(traced)


@pytest.mark.e2e
def test_nothing_removed_is_a_plain_graph() -> None:
    patched = tiny.canonical("cls", Reduction(r=0))
    assert {node.op_type for node in canonical_nodes(patched)} <= {"Attention", "Gelu"}
    lowered = lower(patched, Target.PORTABLE, Precision.FP32)
    plain = lower(trace(tiny.build("cls"), tiny.SHAPE), Target.PORTABLE, Precision.FP32)
    assert census(lowered) == census(plain)
    x = tiny.pixels(3)
    got, expected = (open_session(tiny.to_bytes(model)).run({INPUT_NAME: x})[OUTPUT_NAME] for model in (lowered, plain))
    assert_array_equal(got, expected)


def test_names_and_a_dynamic_batch() -> None:
    graph = tiny.canonical("cls", SOME).graph
    (given,), (answer,) = graph.inputs, graph.outputs
    assert (given.name, answer.name) == (INPUT_NAME, OUTPUT_NAME) == ("input", "logits")
    assert isinstance(given.shape[0], ir.SymbolicDim)
    assert answer.shape[0] == given.shape[0]
    assert list(given.shape)[1:] == [3, 32, 32]
    assert list(answer.shape)[1:] == [tiny.CLASSES]
    assert given.dtype == answer.dtype == ir.DataType.FLOAT


def test_weights_keep_the_names_that_timm_gives_them() -> None:
    names = set(tiny.canonical("registers", SOME).graph.initializers)
    assert not any(name.startswith("model.") for name in names)
    state = dict(tiny.build("registers").named_parameters())
    for name in ("cls_token", "reg_token", "pos_embed", "patch_embed.proj.weight", "norm.weight", "blocks.1.ls2.gamma"):
        assert name in names
        assert name in state


@pytest.mark.parametrize("target", Target)
def test_node_names_follow_the_modules(target: Target) -> None:
    names = [node.name or "" for node in tiny.lowered("cls", SOME, target).graph]
    assert len(set(names)) == len(names)
    stages = {name.split("/")[0] for name in names}
    modules = {name for name, _ in tiny.build("cls").named_modules()}
    assert stages <= modules | {"stem", "model"}
    for layer in range(tiny.DEPTH):  # the last reduction does not reach a class token, and is left out
        assert any(name.startswith(f"blocks.{layer}/fuse/") for name in names) is (layer < tiny.DEPTH - 1)


def test_lowered_files_are_valid() -> None:
    for reduction in (SOME, TOME):
        for target in Target:
            onnx.checker.check_model(ir.to_proto(tiny.lowered("cls", reduction, target)), full_check=True)


# --- What can be asked for ---------------------------------------------------------------------------------------


def test_a_fixed_batch() -> None:
    model = tiny.lowered("cls", TOME, batch=BatchRange(2, 2, 2))
    assert list(model.graph.inputs[0].shape) == [2, 3, 32, 32]
    assert list(model.graph.outputs[0].shape) == [2, tiny.CLASSES]
    got = open_session(tiny.to_bytes(model)).run({INPUT_NAME: tiny.pixels(2)})[OUTPUT_NAME]
    assert_allclose(got, eager("cls", TOME, images()), rtol=0, atol=2e-5)


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("io_dtype", "kind"), [(torch.float32, ir.DataType.FLOAT), (torch.float16, ir.DataType.FLOAT16)]
)
def test_half_precision_inside_and_outside(io_dtype: torch.dtype, kind: ir.DataType) -> None:
    model = tiny.lowered("cls", SOME, precision=Precision.FP16, io_dtype=io_dtype)
    assert model.graph.inputs[0].dtype == model.graph.outputs[0].dtype == kind
    weights = [
        value for value in model.graph.initializers.values() if len(value.shape) >= 2 and "fuse" not in value.name
    ]
    assert weights
    assert {value.dtype for value in weights} == {ir.DataType.FLOAT16}
    session = open_session(tiny.to_bytes(model))
    x = tiny.pixels(4)
    logits = session.run({INPUT_NAME: x.astype(session.inputs[INPUT_NAME].dtype)})[OUTPUT_NAME]
    assert logits.dtype == kind.numpy()
    assert np.isfinite(logits).all()


@pytest.mark.e2e
def test_the_matching_of_a_half_precision_file_is_in_float32() -> None:
    model = tiny.lowered("avg", SOME, precision=Precision.FP16)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    proto = onnx.shape_inference.infer_shapes(ir.to_proto(model), strict_mode=True)
    kinds = {value.name: value.type.tensor_type.elem_type for value in proto.graph.value_info}
    for name in ("match/product", "match/cosine", "match/inverse", "merge/lengths", "merge/length"):
        found = {kind for value, kind in kinds.items() if value.endswith(f"fuse/{name}")}
        assert found == {onnx.TensorProto.FLOAT}, name


def test_a_newer_opset() -> None:
    model = tiny.lowered("cls", SOME, opset=23)
    assert model.opset_imports == {"": 23}
    got = open_session(tiny.to_bytes(model)).run({INPUT_NAME: tiny.pixels(2)})[OUTPUT_NAME]
    assert_allclose(got, eager("cls", SOME, images()), rtol=0, atol=2e-5)


def test_the_default_opset() -> None:
    assert tiny.lowered("cls", SOME).opset_imports == {"": 18}


def test_an_older_opset_is_refused() -> None:
    with pytest.raises(ExportError, match="17 is too old, expected 18"):
        trace(tiny.build("cls"), tiny.SHAPE, opset=17)


class Branches(nn.Module):
    num_classes, global_pool = 3, "avg"

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))


def test_a_model_that_cannot_be_traced_gives_one_error_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ExportError, match=r"torch\.onnx\.export failed: ") as error:
        trace(Branches(), tiny.SHAPE)
    assert "\n" not in str(error.value)
    assert error.value.__cause__ is not None
    assert capfd.readouterr().out == ""


# --- The file ----------------------------------------------------------------------------------------------------


def test_metadata_travels_in_the_file(tmp_path: Path) -> None:
    plan = tiny.plan_of("cls", SOME).to_dict()
    path = tmp_path / "model.onnx"
    assert save(tiny.lowered("cls", SOME), path, {"model": "cls", "plan": plan, "list": [1, 2]}) == [path]
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    proto = onnx.load(path)
    found = {entry.key: entry.value for entry in proto.metadata_props}
    assert found.keys() == {"tofu_export.model", "tofu_export.plan", "tofu_export.list"}
    assert found["tofu_export.model"] == "cls"
    assert json.loads(found["tofu_export.plan"]) == plan
    assert proto.producer_name == "tofu-export"
    session = open_session(path)
    assert session.native.get_modelmeta().custom_metadata_map["tofu_export.list"] == "[1, 2]"
    assert (list(session.inputs), list(session.outputs)) == ([INPUT_NAME], [OUTPUT_NAME])


def test_large_weights_lie_beside_the_file_and_move_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "EXTERNAL_DATA_BYTES", 1000)
    model = tiny.lowered("cls", SOME)
    path = tmp_path / "made" / "model.onnx"
    path.parent.mkdir()
    expected = open_session(tiny.to_bytes(model)).run({INPUT_NAME: tiny.pixels(2)})[OUTPUT_NAME]
    files = save(model, path, {})
    assert [file.name for file in files] == ["model.onnx.data", "model.onnx"]
    assert sorted(file.name for file in path.parent.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert files[0].stat().st_size > files[1].stat().st_size / 10
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in files:
        file.rename(moved / file.name)
    session = open_session(moved / "model.onnx")
    assert_array_equal(session.run({INPUT_NAME: tiny.pixels(2)})[OUTPUT_NAME], expected)
    onnx.checker.check_model(str(moved / "model.onnx"))
    (moved / "model.onnx.data").unlink()
    with pytest.raises(ExportError, match="second file"):
        open_session(moved / "model.onnx")


def test_weights_at_the_limit_stay_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.lowered("cls", SOME)
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    monkeypatch.setattr(onnx_file, "EXTERNAL_DATA_BYTES", size)
    assert len(save(model, tmp_path / "model.onnx", {})) == 1


def _digest() -> str:
    """SHA-256 of the file that the same command writes. Called in this process and in a fresh one."""
    graph = lower(trace(tiny.reduced("cls", SOME), tiny.SHAPE), Target.PORTABLE, Precision.FP32)
    return hashlib.sha256(tiny.to_bytes(graph)).hexdigest()


@pytest.mark.e2e
def test_the_same_command_writes_the_same_bytes(tmp_path: Path) -> None:
    """In one process, and in another where strings hash differently."""
    first = hashlib.sha256(tiny.to_bytes(tiny.lowered("cls", SOME))).hexdigest()
    root = Path(__file__).parents[2]
    program = "from tests.trace.test_export import _digest; print(_digest())"
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [first]
    for name in ("one.onnx", "two.onnx"):
        save(tiny.lowered("cls", SOME), tmp_path / name, {"plan": {"b": 1, "a": 2}})
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()


# --- The model stays as it is ------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
def test_tracing_does_not_touch_the_model(precision: Precision) -> None:
    model = tiny.reduced("cls", SOME)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before = {name: (type(module), dict(module.__dict__)) for name, module in model.named_modules()}
    with torch.no_grad():
        expected = model(images())
    trace(model, tiny.SHAPE, precision=precision)
    with torch.no_grad():
        assert torch.equal(model(images()), expected)
    now = model.state_dict()
    assert list(now) == list(state)
    assert all(now[name].dtype == value.dtype and torch.equal(now[name], value) for name, value in state.items())
    assert before.keys() == {name for name, _ in model.named_modules()}
    for name, module in model.named_modules():
        kind, attributes_before = before[name]
        assert type(module) is kind
        assert module.__dict__.keys() == attributes_before.keys(), name
    assert patch.applied_plan(model) == tiny.plan_of("cls", SOME)
    assert not torch.onnx.is_in_onnx_export()


def test_in_precision_copies_unless_it_is_float32() -> None:
    model = tiny.reduced("cls", SOME)
    assert in_precision(model, Precision.FP32) is model
    half = in_precision(model, Precision.FP16)
    assert {weight.dtype for weight in half.parameters()} == {torch.float16}
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert patch.applied_plan(half) == patch.applied_plan(model)


# --- The file is the model ---------------------------------------------------------------------------------------

METHODS = {
    "prune": Reduction(r=AMOUNTS, pattern="PPP"),
    "average": Reduction(r=AMOUNTS, pattern="AAA"),
    "mlerp": Reduction(r=AMOUNTS, pattern="MMM"),
    "hybrid": SOME,
    "weighted": Reduction(r=AMOUNTS, pattern="PWW"),
    "tome": TOME,
    "sizeless-hybrid": Reduction(r=AMOUNTS, pattern="PAM", prop_attn=False),
    "sizeless-tome": Reduction(r=AMOUNTS, pattern="PTM", prop_attn=False),
    "lost-sizes": Reduction(r=AMOUNTS, pattern="PPM", pruned_sizes=PrunedSizes.LOST),
}


@pytest.mark.e2e
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("name", "target"),
    [*((name, Target.PORTABLE) for name in ("cls", "registers", "distilled", "avg")), ("cls", Target.ONNXRUNTIME)],
)
def test_a_file_computes_what_the_eager_model_computes(name: str, target: Target, method: str) -> None:
    reduction = METHODS[method]
    assert {layer.method for layer in tiny.plan_of(name, reduction).layers} <= set(Method)
    session = open_session(tiny.to_bytes(tiny.lowered(name, reduction, target)), threads=1)
    model = tiny.reduced(name, reduction)
    for batch in (1, 2, 7):
        x = images(batch, seed=batch)
        with torch.no_grad():
            expected = model(x).numpy()
        got = session.run({INPUT_NAME: x.numpy()})[OUTPUT_NAME]
        assert_allclose(got, expected, rtol=0, atol=2e-5 * max(1.0, np.abs(expected).max()))


def halves() -> dict[int, int]:
    """Elements of every half-precision tensor that is alive, by its identity."""
    kinds = (torch.Tensor, torch.nn.Parameter)
    alive = (thing for thing in gc.get_objects() if type(thing) in kinds)
    return {id(tensor): tensor.numel() for tensor in alive if tensor.dtype is torch.float16}


@pytest.mark.e2e
@pytest.mark.traces
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
def test_released_graphs_leave_no_copy_of_the_weights_behind(tmp_path: Path, precision: Precision) -> None:
    """The model itself keeps its own."""
    model = tiny.reduced("cls", SOME)
    before = halves()
    graph = lower(trace(model, tiny.SHAPE, precision=precision), Target.PORTABLE, precision)
    save(graph, tmp_path / "model.onnx", {})
    if precision is Precision.FP16:
        assert sum(count for thing, count in halves().items() if thing not in before) > 10_000
    release(graph)
    del graph
    gc.collect()
    assert sum(count for thing, count in halves().items() if thing not in before) == 0
    assert model(torch.from_numpy(tiny.pixels(1))).isfinite().all()
    assert open_session(tmp_path / "model.onnx").run({INPUT_NAME: tiny.pixels(1)})
