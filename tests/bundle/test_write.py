"""A bundle is whole, says what is in it, and its commands do what they say."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests import tiny
from tests.verification.edits import SOME, change, file_of, least_similar, one_weight
from tofu_export.bundle import EngineFailure, Failure, bundle_engine_failure, check_folder, write_bundle
from tofu_export.compare.outputs import TOLERANCES
from tofu_export.engines.flavours import RTX, available
from tofu_export.errors import EngineBuildError, OptionError, OutputError, VerificationError
from tofu_export.options import BatchRange, Precision
from tofu_export.verification.bundling import bundle_failure
from tofu_export.verification.eager import Checks, verify
from tofu_export.verification.pair import verify_pair
from tofu_export.verification.result import VerificationResult

POLYGRAPHY = Path(sys.executable).with_name("polygraphy")
needs_polygraphy = pytest.mark.skipif(not POLYGRAPHY.exists(), reason="polygraphy is not installed")


def corrupted(proto: onnx.ModelProto) -> None:
    change(proto, "blocks.1.mlp.fc1/MatMul", 1, one_weight)


def failed(path: Path, model: Any = None) -> VerificationResult:
    model = tiny.reduced("cls", SOME) if model is None else model
    result = verify(
        path, model, tiny.pixels(4), precision=Precision.FP32, batch=(1, 3), source="noise", checks=Checks(layers=True)
    )
    assert not result.passed
    return result


def commands(bundle: Path) -> list[str]:
    """The commands in the README."""
    blocks = re.findall(
        r"^```\n(.*?)^```$", (bundle / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    return [line for block in blocks for line in block.splitlines()]


def execute(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{POLYGRAPHY.parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        ["sh", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Of a file whose block 1 is wrong."""
    path = file_of(tmp_path, mutation=corrupted)
    result = failed(path)
    report = {"command": "tofu-export verify model.onnx", "verification": [result.to_dict()]}
    error = bundle_failure(tmp_path / "bundle", path, result.failure(), report, result)
    assert isinstance(error, VerificationError)
    assert str(tmp_path / "bundle" / "README.md") in str(error)
    return tmp_path / "bundle"


def test_everything_is_in_it(bundle: Path) -> None:
    names = {path.name for path in bundle.iterdir()}
    assert names == {
        "README.md", "model.onnx", "inputs.npz", "inputs.json", "input0.bin", "outputs.npz", "expected.npz",
        "expected.json", "report.json", "environment.json",
    }  # fmt: skip
    assert (bundle / "model.onnx").read_bytes() == (bundle.parent / "model.onnx").read_bytes()
    arrays = {name: np.load(bundle / f"{name}.npz") for name in ("inputs", "outputs", "expected")}
    pixels = arrays["inputs"]["input"]
    assert (pixels.shape[1:], pixels.dtype) == ((3, 32, 32), np.float32)
    assert (bundle / "input0.bin").read_bytes() == pixels.tobytes()
    assert arrays["outputs"]["logits"].shape == arrays["expected"]["logits"].shape == (len(pixels), 5)
    assert len(arrays["expected"].files) == 1 + 3  # and what the blocks give
    assert json.loads((bundle / "report.json").read_text())["verification"][0]["layers"]
    assert "torch" in json.loads((bundle / "environment.json").read_text())["versions"]
    assert [path.name for path in bundle.parent.iterdir() if path.name.startswith(".")] == []


def test_the_readme_warns_of_weights_and_names_what_failed(bundle: Path) -> None:
    text = (bundle / "README.md").read_text(encoding="utf-8")
    assert "Before you send this folder" in text
    assert "holds the weights of the model" in text
    assert "the first block that differs is 1" in text
    listed = {name for row in re.findall(r"^\| `(.*?)` \|", text, re.MULTILINE) for name in row.split(", ")}
    assert listed | {"README.md"} == {path.name for path in bundle.iterdir()}
    programs = [next(word for word in shlex.split(command) if "=" not in word) for command in commands(bundle)]
    assert set(programs) == {"tofu-export", "polygraphy", "trtexec"}


@pytest.mark.e2e
@needs_polygraphy
def test_its_commands_for_onnxruntime_show_the_difference(bundle: Path) -> None:
    whole, blocks = (line for line in commands(bundle) if line.startswith("polygraphy run model.onnx --onnxrt"))
    shown = execute(whole, bundle)
    assert shown.returncode == 1
    assert "FAILED | Output: 'logits'" in shown.stdout + shown.stderr
    shown = execute(blocks, bundle)
    assert shown.returncode == 1
    verdicts = re.findall(r"(PASSED|FAILED) \| Output: '(\w+)'", shown.stdout + shown.stderr)
    assert [verdict for verdict, _ in verdicts] == ["PASSED", "FAILED", "FAILED", "FAILED"]  # blocks 0 to 2, logits
    # The same bundle around the right file finds no fault: what is compared with is right.
    right = file_of(bundle.parent)
    shutil.copyfile(right, bundle / "model.onnx")
    assert execute(whole, bundle).returncode == 0
    assert execute(blocks, bundle).returncode == 0


@pytest.mark.e2e
@needs_polygraphy
def test_with_another_file_every_value_can_be_compared(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    path, reference = file_of(tmp_path / "one", mutation=corrupted), file_of(tmp_path / "two")
    result = verify_pair(
        path, reference, tiny.pixels(2), tolerance=TOLERANCES[Precision.FP32], batches=(2,), source="noise"
    )
    bundle = tmp_path / "bundle"
    bundle_failure(bundle, path, result.failure(), {}, result, reference)
    assert (bundle / "reference.onnx").read_bytes() == reference.read_bytes()
    (golden,) = (line for line in commands(bundle) if "golden.json" in line and "debug reduce" not in line)
    assert execute(golden, bundle).returncode == 0
    (reduce,) = (line for line in commands(bundle) if "debug reduce" in line)
    check = reduce.partition("--check ")[2].replace(
        "polygraphy_debug.onnx --onnxrt", "model.onnx --onnxrt --onnx-outputs mark all"
    )
    shown = execute(check, bundle)  # the same comparison at once, for want of onnx-graphsurgeon here
    assert shown.returncode == 1
    output = shown.stdout + shown.stderr
    first = re.search(r"FAILED \| Output: '(\S+)'", output)
    product = next(node for node in onnx.load(path).graph.node if node.name == "blocks.1.mlp.fc1/MatMul")
    assert first is not None
    assert first[1] == product.output[0]


@pytest.mark.e2e
def test_where_decisions_are_wrong_it_says_that_outputs_agree(tmp_path: Path) -> None:
    path = file_of(tmp_path, mutation=least_similar)
    result = failed(path)
    bundle_failure(tmp_path / "bundle", path, result.failure(), {}, result)
    assert "What is wrong are decisions" in (tmp_path / "bundle" / "README.md").read_text(encoding="utf-8")
    assert "What is wrong are decisions" not in _readme(tmp_path / "other", corrupted)


def _readme(folder: Path, mutation: Any) -> str:
    folder.mkdir()
    path = file_of(folder, mutation=mutation)
    result = failed(path)
    bundle_failure(folder / "bundle", path, result.failure(), {}, result)
    return (folder / "bundle" / "README.md").read_text(encoding="utf-8")


def test_weights_beside_the_file_come_along(tmp_path: Path) -> None:
    proto = onnx.load(file_of(tmp_path))
    (tmp_path / "large").mkdir()
    onnx.save(
        proto, tmp_path / "large" / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=64
    )
    write_bundle(tmp_path / "bundle", Failure(tmp_path / "large" / "net.onnx", "it failed", {}))
    assert {"model.onnx", "net.data"} <= {path.name for path in (tmp_path / "bundle").iterdir()}
    onnx.checker.check_model(str(tmp_path / "bundle" / "model.onnx"))


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "folder/x.bin"])
def test_weights_outside_of_the_folder_are_not_copied(tmp_path: Path, location: str) -> None:
    tensor = numpy_helper.from_array(np.ones(4, np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    graph = helper.make_graph([helper.make_node("Neg", ["w"], ["y"])], "g", [], [value], [tensor])
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "m.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(OutputError, match="outside of its folder"):
        write_bundle(tmp_path / "bundle", Failure(tmp_path / "in" / "m.onnx", "it failed", {}))
    assert not (tmp_path / "bundle").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "secret.bin"]


def test_only_a_new_or_empty_folder_is_taken(tmp_path: Path) -> None:
    path = file_of(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    (tmp_path / "link").symlink_to(tmp_path / "full")
    for name in ("full", "link", "model.onnx"):
        with pytest.raises(OptionError):
            check_folder(tmp_path / name)
        with pytest.raises(OptionError):
            write_bundle(tmp_path / name, Failure(path, "it failed", {}))
    (tmp_path / "empty").mkdir()
    write_bundle(tmp_path / "empty", Failure(path, "it failed", {}))
    assert (tmp_path / "empty" / "README.md").exists()


def test_names_that_numpy_and_shells_stumble_over(tmp_path: Path) -> None:
    feeds = {"file": np.ones((2, 3), np.float16), "a b;$(rm)": np.ones((2, 1), np.int64)}
    failure = Failure(file_of(tmp_path), "it failed", {}, feeds, {"y/1": np.ones(2)}, {"y/1": np.zeros(2)}, allowed=0.1)
    write_bundle(tmp_path / "bundle", failure)
    assert sorted(np.load(tmp_path / "bundle" / "inputs.npz").files) == sorted(feeds)
    for command in commands(tmp_path / "bundle"):
        words = [word for word in shlex.split(command, comments=True) if "rm" in word]
        assert all("a b;$(rm):" in word for word in words)  # one argument, in quotes
    assert any("'a b;$(rm):[2,1]'" in command for command in commands(tmp_path / "bundle"))


def test_what_polygraphy_writes_and_reads_is_the_same(tmp_path: Path) -> None:
    comparator = pytest.importorskip("polygraphy.comparator")
    serialised = pytest.importorskip("polygraphy.json")
    from tofu_export.bundle.polygraphy_json import inputs_json, outputs_json

    arrays = {"x": np.arange(6, dtype=np.float16).reshape(2, 3).T, "scalar": np.array(3)}
    (tmp_path / "outputs.json").write_text(outputs_json(arrays, "eager"))
    ((name, (iteration,)),) = comparator.RunResults.load(str(tmp_path / "outputs.json"))
    assert name == "eager"
    (read,) = serialised.from_json(inputs_json(arrays))
    for key, value in arrays.items():
        assert np.array_equal(iteration[key], value)
        assert np.array_equal(read[key], value)
        assert read[key].dtype == value.dtype


@needs_polygraphy
@pytest.mark.rtx
@pytest.mark.skipif(RTX not in available(), reason="needs tensorrt-rtx")
def test_an_engine_that_cannot_be_built(tmp_path: Path) -> None:
    nodes = [helper.make_node("ScatterElements", ["x", "i", "x"], ["y"], name="scatter", axis=1, reduction="add")]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 4]) for name in ("x", "y")]
    index = helper.make_tensor_value_info("i", TensorProto.INT64, ["b", 4])
    graph = helper.make_graph(nodes, "g", [values[0], index], [values[1]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    (tmp_path / "scatter.onnx").write_bytes(model.SerializeToString())
    feeds = {"x": np.ones((2, 4), np.float32), "i": np.zeros((2, 4), np.int64)}
    wanted = EngineFailure(RTX.name, BatchRange(1, 2, 4), ("SM80", "SM89", "SM120"))
    error = bundle_engine_failure(
        tmp_path / "bundle", tmp_path / "scatter.onnx", EngineBuildError("it cannot"), {}, wanted, feeds
    )
    assert isinstance(error, EngineBuildError)
    assert np.load(tmp_path / "bundle" / "expected.npz")["y"].tolist() == [[5, 1, 1, 1]] * 2
    (build,) = (line for line in commands(tmp_path / "bundle") if "polygraphy convert model.onnx" in line)
    assert "--compute-capabilities 8.0 8.9 12.0" in build
    shown = execute(build, tmp_path / "bundle")
    assert shown.returncode != 0
    assert "Unsupported reduction type" in shown.stdout + shown.stderr
