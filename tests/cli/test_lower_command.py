"""`tofu-export lower`: a token-merging trace of the ordinary kind becomes one that TensorRT-RTX builds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests import tiny
from tests.cli.running import run
from tests.engines import models
from tests.graph_patterns import styles
from tests.graph_patterns.foreign_graphs import scatter
from tests.imports import load_script
from tofu_export.engines.building.build import EngineRequest, build_engine
from tofu_export.engines.flavours import RTX, available
from tofu_export.errors import EngineBuildError
from tofu_export.graph_patterns.foreign.rewrite import Change
from tofu_export.options import Target
from tofu_export.system.ort import open_session


def exports() -> ModuleType:
    """The benchmark's exports, which show what others would write."""
    return load_script("benchmarks/exports.py")


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ToMe as `torch.onnx.export` writes it."""
    path = tmp_path_factory.mktemp("traced") / "theirs.onnx"
    exports().export_ordinary_tome(tiny.build("cls"), tiny.spec("cls"), "tiny", 2, path)
    return path


@pytest.mark.e2e
def test_a_token_merging_trace(traced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ours.onnx"
    assert run("lower", str(traced), "-o", str(path), "--json") == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    scatters = [node.name for node in onnx.load(traced).graph.node if node.op_type == "ScatterElements"]
    assert [entry["node"] for entry in document["rewritten"]] == scatters
    assert len(scatters) >= 2 * tiny.DEPTH
    assert (document["left"], document["rejected"], document["batches"]) == ([], [], [1, 3])
    assert document["max_abs"] <= 1e-5
    assert f"{len(scatters)} ScatterElements" in err
    assert "same outputs as the original at batch 1, 3" in err
    assert not any(node.op_type == "ScatterElements" for node in onnx.load(path).graph.node)
    assert [entry.name for entry in tmp_path.iterdir()] == ["ours.onnx"]


@pytest.mark.e2e
@pytest.mark.rtx
@pytest.mark.skipif(RTX not in available(), reason="tensorrt-rtx is not installed")
def test_what_tensorrt_rtx_rejects_it_builds_afterwards(traced: Path, tmp_path: Path) -> None:
    path = tmp_path / "ours.onnx"
    assert run("lower", str(traced), "-o", str(path), "--target", "tensorrt-rtx", "-q") == 0
    with pytest.raises(EngineBuildError, match="reduction 'add' is not supported"):
        build_engine(EngineRequest(traced, tmp_path / "a.engine", RTX, compute_capabilities=("SM89",)))
    receipt = build_engine(EngineRequest(path, tmp_path / "b.engine", RTX, compute_capabilities=("SM89",)))
    assert receipt.kernels.summary().kernels > 0


@pytest.mark.e2e
def test_what_stays_rejected_is_said_by_the_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = models.save(scatter("max", 3_000_000, rows=4), tmp_path, "theirs.onnx")
    assert run("lower", str(source), "-o", str(tmp_path / "out" / "ours.onnx")) == 7
    err = capsys.readouterr().err
    assert "left: node 'merge' (ScatterElements): 'max' would need 4 x 5 x 3000000 numbers" in err
    assert "nothing to rewrite" in err
    assert (tmp_path / "out" / "ours.onnx").is_file()


def test_a_file_that_needs_nothing_is_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = models.save(models.block(), tmp_path, "theirs.onnx")
    assert run("lower", str(source), "-o", str(tmp_path / "ours.onnx")) == 0
    assert "nothing to rewrite" in capsys.readouterr().err
    feeds = {"x": np.ones((2, 16, 32), dtype=np.float32)}
    np.testing.assert_array_equal(
        open_session(tmp_path / "ours.onnx").run(feeds)["y"], open_session(source).run(feeds)["y"]
    )


def test_external_weights_are_read_and_metadata_stays(tmp_path: Path) -> None:
    proto = models.block()
    helper.set_model_props(proto, {"their": "note"})
    source = tmp_path / "in" / "theirs.onnx"
    source.parent.mkdir()
    onnx.save_model(proto, source, save_as_external_data=True, location="their.data", size_threshold=0)
    assert run("lower", str(source), "-o", str(tmp_path / "out" / "ours.onnx"), "-q") == 0
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["ours.onnx"]
    session = open_session(tmp_path / "out" / "ours.onnx")
    assert session.metadata["their"] == "note"
    assert session.run({"x": np.ones((1, 16, 32), dtype=np.float32)})["y"].shape == (1, 16, 32)


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_half_precision_is_compared_though_the_original_does_not_run(
    dtype: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """onnxruntime's CPU provider cannot add halves in a scatter: copies of both compute in FP32."""
    source = models.save(scatter("add", dtype=dtype), tmp_path, "theirs.onnx")
    code = run("lower", str(source), "-o", str(tmp_path / "ours.onnx"), "--target", "tensorrt-rtx", "--json")
    document = json.loads(capsys.readouterr().out)
    assert (code, document["batches"], document["unchecked"]) == (0, [1, 3], "")
    assert document["max_abs"] < 1e-5


def test_a_file_that_cannot_be_compared_is_not_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proto = scatter("add")
    proto.graph.node.append(helper.make_node("Unheard", ["y"], ["z"], domain="theirs"))
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    proto.opset_import.append(helper.make_opsetid("theirs", 1))
    source = models.save(proto, tmp_path, "theirs.onnx")
    assert run("lower", str(source), "-o", str(tmp_path / "out" / "ours.onnx")) == 4
    assert "cannot be run in onnxruntime" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_batch_that_the_original_does_not_take_leaves_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A size of 1 in the graph behind an input that says it is open."""
    proto = scatter("add")
    proto.graph.node.append(helper.make_node("Reshape", ["y", "one"], ["z"], name="fixed"))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1, 28]), "one"))
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 28]))
    source = models.save(proto, tmp_path, "theirs.onnx")
    assert run("lower", str(source), "-o", str(tmp_path / "ours.onnx"), "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["batches"] == [1]
    assert "same outputs as the original at batch 1: " in err
    assert "NOT COMPARED: the original does not run at batch 3" in err


def test_lowered_a_second_time_it_is_the_same_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = models.save(scatter("add"), tmp_path, "theirs.onnx")
    once, twice = tmp_path / "once.onnx", tmp_path / "twice.onnx"
    assert run("lower", str(source), "-o", str(once), "-q") == 0
    assert run("lower", str(once), "-o", str(twice)) == 0
    assert "nothing to rewrite" in capsys.readouterr().err
    assert twice.read_bytes() == once.read_bytes()


def test_sparse_weights_are_written_out_for_tensorrt_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proto = models.block()
    values = helper.make_tensor("w", TensorProto.FLOAT, [2], [0.5, -2.0])
    places = helper.make_tensor("places", TensorProto.INT64, [2], [3, 40])
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [32, 2]))
    proto.graph.node.append(helper.make_node("MatMul", ["y", "w"], ["z"], name="sparse"))
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 16, 2]))
    source = models.save(proto, tmp_path, "theirs.onnx")
    assert run("lower", str(source), "-o", str(tmp_path / "a.onnx"), "--target", "onnxruntime") == 0
    assert (tmp_path / "a.onnx").read_bytes() == source.read_bytes()
    capsys.readouterr()
    assert run("lower", str(source), "-o", str(tmp_path / "b.onnx"), "--target", "tensorrt-rtx") == 0
    assert "1 SparseTensor" in capsys.readouterr().err
    dense = next(tensor for tensor in onnx.load(tmp_path / "b.onnx").graph.initializer if tensor.name == "w")
    assert numpy_helper.to_array(dense).ravel()[[3, 40]].tolist() == [0.5, -2.0]


def test_a_wrong_mean_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = models.save(styles.export(styles.LEFT["scatter_reduce mean"]()), tmp_path, "theirs.onnx")
    capsys.readouterr()  # older exporters print
    assert run("lower", str(source), "-o", str(tmp_path / "ours.onnx"), "--json") == 0
    out, err = capsys.readouterr()
    assert [finding["rule"] for finding in json.loads(out)["warned"]] == ["mean-overwritten"]
    assert (
        "warning: node 'node_scatter_reduce' (ScatterElements): overwrites, where the model in torch takes a mean"
        in err
    )


def test_a_file_that_draws_random_numbers_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both draw the same ones for that; what is written draws others in every run, as the original does."""
    proto = scatter("add")
    noise = helper.make_node("RandomNormalLike", ["updates"], ["noise"], name="noise")
    proto.graph.node.insert(0, noise)
    merge = next(node for node in proto.graph.node if node.name == "merge")
    merge.input[2] = "noise"
    source = models.save(proto, tmp_path, "theirs.onnx")
    assert run("lower", str(source), "-o", str(tmp_path / "ours.onnx"), "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["batches"] == [1, 3]
    assert document["max_abs"] < 1e-5
    assert [finding["rule"] for finding in document["warned"]] == ["random"]
    written = next(node for node in onnx.load(tmp_path / "ours.onnx").graph.node if node.name == "noise")
    assert list(written.attribute) == []


def test_a_result_that_differs_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(model: ir.Model, target: Target) -> tuple[Change, ...]:
        for node in list(model.graph):
            if node.op_type == "ScatterElements":
                node.attributes["reduction"] = ir.AttrString("reduction", "max")
        return (Change("merge", "ScatterElements"),)

    monkeypatch.setattr("tofu_export.linting.lower_file.rewrite", wrong)
    source = models.save(scatter("add"), tmp_path, "theirs.onnx")
    assert run("lower", str(source), "-o", str(tmp_path / "out" / "ours.onnx")) == 4
    assert "output y differs from the original by" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("way", ["pipe", "missing", "outside"])
def test_weights_that_are_no_file_are_not_waited_for(
    way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "theirs.onnx"
    onnx.save_model(models.block(), source, save_as_external_data=True, location="their.data", size_threshold=0)
    (tmp_path / "their.data").unlink()
    if way == "pipe":
        os.mkfifo(tmp_path / "their.data")
    elif way == "outside":
        proto = onnx.load(source, load_external_data=False)
        for tensor in proto.graph.initializer:
            for entry in tensor.external_data:
                entry.value = "../their.data" if entry.key == "location" else entry.value
        source.write_bytes(proto.SerializeToString())
    assert run("lower", str(source), "-o", str(tmp_path / "out" / "ours.onnx")) == 3
    assert "their.data" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "output", "code", "words"),
    [
        ("missing.onnx", None, "o.onnx", 2, "does not exist"),
        ("text.onnx", b"hello", "o.onnx", 3, "not an ONNX file"),
        ("a.onnx", b"hello", "o.bin", 2, "expected the name of an .onnx file"),
        ("a.onnx", b"hello", "a.onnx", 2, "choose another name"),
    ],
)
def test_bad_input(
    name: str, content: bytes | None, output: str, code: int, words: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if content is not None:
        (tmp_path / name).write_bytes(content)
    before = sorted(tmp_path.iterdir())
    assert run("lower", str(tmp_path / name), "-o", str(tmp_path / output)) == code
    assert words in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_an_output_that_is_nan_whatever_goes_in_is_said_to_be_uncompared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proto = scatter("add")
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(np.nan), "nan"))
    proto.graph.node.append(helper.make_node("Add", ["y", "nan"], ["z"]))
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    source = models.save(proto, tmp_path, "theirs.onnx")
    assert run("lower", str(source), "-o", str(tmp_path / "ours.onnx")) == 0
    assert "NOT COMPARED: the original gives NaN alone for z" in capsys.readouterr().err
