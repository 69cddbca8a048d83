from __future__ import annotations

import json

import pytest

from tests.cli.running import run
from tests.engines import models


def test_a_clean_file(tmp_path, capsys):
    path = models.save(models.block(), tmp_path)
    assert run("lint", str(path)) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("", "model.onnx: 5 nodes, target portable: no findings\n")


def test_errors_name_node_runtime_reason_and_remedy(tmp_path, capsys):
    path = models.save(models.scatter("add"), tmp_path)
    assert run("lint", str(path), "--target", "tensorrt-rtx", "-v") == 7
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "error: scatter-reduction (tensorrt-rtx 1.7)",
        "  node '/blocks.0/ScatterElements' (ScatterElements): reduction 'add' is not supported",
        "  what to do: let `tofu-export lower` make a one-hot MatMul (sum) or a masked ReduceMax (max) of it",
        "  source: measured: TensorRT-RTX 1.7.1",
        "model.onnx: 1 nodes, target tensorrt-rtx: 1 error",
    ]
    assert run("lint", str(path), "--target", "onnxruntime") == 0
    assert run("lint", str(path), "--target", "tensorrt") == 0  # a plugin does it: a warning
    assert "1 warning" in capsys.readouterr().err


def test_capability(tmp_path, capsys):
    path = models.save(models.fp32_island(), tmp_path)
    assert run("lint", str(path), "--target", "tensorrt-rtx") == 0
    assert run("lint", str(path), "--target", "tensorrt-rtx", "--compute-capability", "sm75") == 7
    assert "/blocks.0/similarity/MatMul" in capsys.readouterr().err


def test_json_is_one_document(tmp_path, capsys):
    path = models.save(models.topk(4000), tmp_path)
    assert run("lint", str(path), "--json", "-q") == 7
    out, err = capsys.readouterr()
    assert err == ""
    document = json.loads(out)
    assert (document["schema_version"], document["target"], document["file"]) == (1, "portable", "model.onnx")
    assert document["findings"][0]["rule"] == "topk-limit"


@pytest.mark.parametrize(
    ("content", "code", "words"), [(None, 2, "does not exist"), (b"", 3, "holds no graph"), (b"text", 3, "not an ONNX")]
)
def test_no_file_to_lint(content, code, words, tmp_path, capsys):
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    assert run("lint", str(path), "--json") == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tofu-export: error: ")
    assert words in err
    assert err.count("\n") == 1
