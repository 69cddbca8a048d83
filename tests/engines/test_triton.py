"""Triton repositories: configurations that the server's schema accepts, beside the files that they speak of."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper

from tests.cli.running import run
from tests.engines import models, sidecars
from tofu_export.engines.describing.triton_options import TritonOptions
from tofu_export.errors import OptionError
from tofu_export.system.ort import open_session


def schema() -> Any:
    """Triton's own schema, out of its client; alone, because the package around it wants grpc."""
    package = importlib.util.find_spec("tritonclient")
    assert package is not None and package.submodule_search_locations is not None
    path = Path(package.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    found = importlib.util.spec_from_file_location("triton_model_config", path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


SCHEMA = schema()
METADATA = {
    "tofu_export.model": "vit_tiny_patch16_224",
    "tofu_export.precision": "fp16",
    "tofu_export.batch": "1:8:64",
    "tofu_export.preprocessing": json.dumps({"mean": [0.5], "note": 'a "quoted" word\nand ü'}),
    "tofu_export.labels": json.dumps(["cat", "dög"]),
}


def exported(folder: Path, name: str = "model.onnx", batch: int | str = "batch", **metadata: str) -> Path:
    """A file as the main job writes it: an image in, logits and a token map out."""
    folder.mkdir(exist_ok=True)
    nodes = [
        helper.make_node("ReduceMean", ["input"], ["pooled"], axes=[2, 3], keepdims=0),
        helper.make_node("Cast", ["pooled"], ["logits"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["pooled"], ["token_map"], to=TensorProto.INT64),
    ]
    proto = models.model(
        nodes,
        [models.value("input", [batch, 3, 8, 8])],
        [models.value("logits", [batch, 3]), models.value("token_map", [batch, 3], TensorProto.INT64)],
        opset=17,
    )
    helper.set_model_props(proto, {**METADATA, **metadata})
    return models.save(proto, folder, name)


def config_of(folder: Path) -> Any:
    text = (folder / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, SCHEMA.ModelConfig())


def test_a_dynamic_file_is_served_in_batches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = exported(tmp_path / "out")
    assert run("triton", str(tmp_path / "out"), "-o", str(tmp_path / "repo"), "--queue-delay", "250") == 0
    folder = tmp_path / "repo" / "vit_tiny_patch16_224"
    config = config_of(folder)
    assert (config.name, config.backend, config.max_batch_size) == (folder.name, "onnxruntime", 64)
    assert config.default_model_filename == "model.onnx"
    (pixels,) = config.input
    assert (pixels.name, pixels.data_type, list(pixels.dims)) == ("input", SCHEMA.TYPE_FP32, [3, 8, 8])
    logits, token_map = config.output
    assert (logits.name, list(logits.dims), logits.label_filename) == ("logits", [3], "labels.txt")
    assert (token_map.data_type, token_map.label_filename) == (SCHEMA.TYPE_INT64, "")
    assert list(config.dynamic_batching.preferred_batch_size) == [8]
    assert config.dynamic_batching.max_queue_delay_microseconds == 250
    assert [(group.count, group.kind) for group in config.instance_group] == [(1, SCHEMA.ModelInstanceGroup.KIND_AUTO)]
    preprocessing = config.parameters["tofu_export.preprocessing"].string_value
    assert json.loads(preprocessing) == json.loads(METADATA["tofu_export.preprocessing"])
    assert (folder / "labels.txt").read_text(encoding="utf-8") == "cat\ndög\n"
    assert (folder / "1" / "model.onnx").read_bytes() == source.read_bytes()
    assert "vit_tiny_patch16_224: model.onnx, onnxruntime backend" in capsys.readouterr().err
    assert [entry.name for entry in (tmp_path / "repo").iterdir()] == [folder.name]


def test_a_fixed_batch_is_part_of_the_shape(tmp_path: Path) -> None:
    path = exported(tmp_path / "out", batch=4)
    assert run("triton", str(path), "-o", str(tmp_path / "repo"), "--name", "fixed", "--device", "cpu") == 0
    config = config_of(tmp_path / "repo" / "fixed")
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [4, 3, 8, 8]
    assert not config.HasField("dynamic_batching")
    assert config.instance_group[0].kind == SCHEMA.ModelInstanceGroup.KIND_CPU


def test_files_of_several_precisions_are_models_of_their_own(tmp_path: Path) -> None:
    for precision in ("fp32", "int8"):
        exported(tmp_path / "out", f"model.{precision}.onnx", **{"tofu_export.precision": precision})
    assert run("triton", str(tmp_path / "out"), "-o", str(tmp_path / "repo"), "--version", "3") == 0
    names = sorted(entry.name for entry in (tmp_path / "repo").iterdir())
    assert names == ["vit_tiny_patch16_224_fp32", "vit_tiny_patch16_224_int8"]
    for name in names:
        assert config_of(tmp_path / "repo" / name).name == name
        assert (tmp_path / "repo" / name / "3" / "model.onnx").is_file()


def test_plans_of_tensorrt_are_served_and_those_of_rtx_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    exported(out)
    for flavour in ("tensorrt", "tensorrt-rtx"):
        plan = out / f"model.fp16.{flavour}.engine"
        plan.write_bytes(flavour.encode())
        sidecars.write(plan, flavour=flavour)
    assert run("triton", str(out), "-o", str(tmp_path / "repo")) == 0
    config = config_of(tmp_path / "repo" / "vit_tiny_patch16_224_trt")
    assert (config.backend, config.default_model_filename) == ("tensorrt", "model.plan")
    assert config.instance_group[0].kind == SCHEMA.ModelInstanceGroup.KIND_GPU
    assert (tmp_path / "repo" / "vit_tiny_patch16_224_trt" / "1" / "model.plan").read_bytes() == b"tensorrt"
    assert "left out: model.fp16.tensorrt-rtx.engine: a plan of tensorrt-rtx" in capsys.readouterr().err


def test_plans_that_cannot_be_told_are_left_out_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    exported(out)
    (out / "bare.engine").write_bytes(b"plan")
    (out / "far.engine").write_bytes(b"plan")
    sidecars.write(out / "far.engine", out / "elsewhere.onnx", flavour="tensorrt")
    assert run("triton", str(out), "-o", str(tmp_path / "repo")) == 0
    err = capsys.readouterr().err
    assert "left out: bare.engine: there is no bare.engine.json beside it" in err
    assert "left out: far.engine: elsewhere.onnx, which it was built from, is not beside it" in err
    assert [entry.name for entry in (tmp_path / "repo").iterdir()] == ["vit_tiny_patch16_224"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"engine": {"bytes": 4, "sha256": "0"}}, "plan.engine is not what was built"),
        ({"onnx": {"file": "model.onnx", "sha256": "0"}}, "model.onnx is not the file that plan.engine was built from"),
        ({"precision": 16}, "plan.engine.json is not the sidecar of an engine"),
    ],
)
def test_plans_that_are_not_what_is_said_of_them(
    changes: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    exported(out)
    (out / "plan.engine").write_bytes(b"plan")
    sidecars.write(out / "plan.engine", **{"flavour": "tensorrt", **changes})
    assert run("triton", str(out), "-o", str(tmp_path / "repo")) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "repo").exists()


def test_external_weights_come_along(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    proto = models.block()
    onnx.save_model(proto, out / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    assert run("triton", str(out), "-o", str(tmp_path / "repo"), "--name", "large") == 0
    served = tmp_path / "repo" / "large" / "1" / "model.onnx"
    assert open_session(served).run({"x": np.zeros((1, 16, 32), dtype=np.float32)})["y"].shape == (1, 16, 32)


def test_an_export_of_the_main_job_is_served(tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["test_vit", "--r", "8", "--weights", "random", "--precision", "fp32", "--batch", "1:2:4"]
    assert run(*arguments, "--no-bench", "--no-engine", "--no-verify", "-o", str(out), "-q") == 0
    assert run("triton", str(out), "-o", str(tmp_path / "repo")) == 0
    config = config_of(next((tmp_path / "repo").iterdir()))
    assert config.max_batch_size == 4
    assert list(config.dynamic_batching.preferred_batch_size) == [2]
    assert config.parameters["tofu_export.model"].string_value == "test_vit"


@pytest.mark.parametrize(
    ("prepare", "arguments", "words"),
    [
        (lambda out: None, (), "does not exist"),
        (lambda out: out.mkdir(), (), "has no ONNX file"),
        (lambda out: exported(out), ("--name", "../up"), "is no folder name"),
        (lambda out: (exported(out.parent / "repo" / "vit_tiny_patch16_224"), exported(out)), (), "exists"),
    ],
)
def test_what_cannot_be_served(
    prepare: Any, arguments: tuple[str, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "repo").mkdir()
    prepare(tmp_path / "out")
    before = sorted(tmp_path.rglob("*"))
    assert run("triton", str(tmp_path / "out"), "-o", str(tmp_path / "repo"), *arguments) == 2
    assert words in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_type_that_no_vision_transformer_has_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proto = models.one_node(
        "Not", [models.value("x", ["b", 2], TensorProto.BOOL)], models.value("y", ["b", 2], TensorProto.BOOL)
    )
    models.save(proto, tmp_path)
    assert run("triton", str(tmp_path), "-o", str(tmp_path / "repo"), "--name", "odd") == 2
    assert "x is of type BOOL" in capsys.readouterr().err


def test_a_file_whose_metadata_this_version_does_not_know_is_not_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported(tmp_path / "out", **{"tofu_export.plan": json.dumps({"select": "astrology", "layers": []})})
    assert run("triton", str(tmp_path / "out"), "-o", str(tmp_path / "repo")) == 4
    assert "plan.select" in (err := capsys.readouterr().err)
    assert "'astrology', expected one of bipartite" in err
    assert not (tmp_path / "repo").exists()


@pytest.mark.parametrize("wrong", [{"version": 0}, {"instances": 0}, {"queue_delay_us": -1}, {"device": "tpu"}])
def test_options_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        TritonOptions(**wrong)
