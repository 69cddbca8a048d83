"""`tofu-export verify`: the verdict on stderr, one document on stdout, exit code 4, a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests import exported
from tests.cli.running import run


@pytest.fixture
def good() -> str:
    return str(exported.folder() / "model.fp32.onnx")


@pytest.fixture
def bad(tmp_path: Path) -> str:
    """One weight of the last block is off, behind all decisions."""

    def corrupt(model: onnx.ModelProto) -> None:
        (consumer,) = (node for node in model.graph.node if node.name == "blocks.5.mlp.fc1/MatMul")
        (tensor,) = (entry for entry in model.graph.initializer if entry.name == consumer.input[1])
        value = numpy_helper.to_array(tensor).copy()
        value[3, 5] += 0.5
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))

    return str(exported.changed(tmp_path / "bad.onnx", edit=corrupt))


def test_a_right_file(good: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", good, "--batch", "2") == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "model.fp32.onnx against the eager model: passed" in err
    assert "2 images at batch 2: natural-statistics noise, seed 0" in err
    assert "0 wrong" in err
    assert "block by block" not in err


@pytest.mark.e2e
def test_block_by_block(bad: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", bad, "--batch", "2", "-v") == 4
    err = capsys.readouterr().err
    assert "bad.onnx against the eager model: FAILED" in err
    rows = [line for line in err.splitlines() if line.startswith("│")]
    assert len(rows) == 6
    assert ["<- the first that differs" in row for row in rows] == [False, False, False, False, False, True]
    assert err.splitlines()[-1].startswith("tofu-export: error: bad.onnx does not compute what the eager model")
    assert err.splitlines()[-1].endswith("the first block that differs is 5")


@pytest.mark.e2e
def test_json_is_one_document_with_the_fields_of_the_report(
    good: str, bad: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("verify", good, "--batch", "1", "--json", "-q") == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert err == ""
    assert list(document) == ["schema_version", "command", "environment", "verification", "error"]
    assert document["error"] is None
    assert document["verification"][0]["passed"]
    assert run("verify", bad, "--batch", "1", "--json", "-q") == 4
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert not document["verification"][0]["passed"]
    assert document["error"] in err
    assert "Run again with -v" in err
    assert len(err.splitlines()) == 1


def test_another_file(good: str, bad: str, capsys: pytest.CaptureFixture[str]) -> None:
    half = str(exported.folder() / "model.fp16.onnx")
    assert run("verify", half, "--reference", good, "--batch", "1,2") == 0
    assert "model.fp16.onnx against model.fp32.onnx: passed" in capsys.readouterr().err
    assert run("verify", half, "--reference", good, "--batch", "1", "--tolerance", "fp32") == 4
    assert run("verify", bad, "--reference", good, "--batch", "1") == 4
    assert run("verify", bad, "--reference", good, "--batch", "1", "--atol", "10", "--cosine", "0") == 0
    assert "allowed 10 and 0.0 (fp32 with atol 10, cosine 0)" in capsys.readouterr().err


def test_an_output_too_many_is_in_the_document(tmp_path: Path, good: str, capsys: pytest.CaptureFixture[str]) -> None:
    def extra(model: onnx.ModelProto) -> None:
        model.graph.output.append(helper.make_tensor_value_info("linear_1", onnx.TensorProto.FLOAT, None))

    path = exported.changed(tmp_path / "extra.onnx", edit=extra)
    bundle = tmp_path / "bundle"
    assert run("verify", str(path), "--json", "-q", "--bundle", str(bundle)) == 4
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["verification"] == []
    assert "expected logits" in document["error"]
    assert document["error"] in err
    assert (bundle / "model.onnx").read_bytes() == path.read_bytes()
    assert not (bundle / "expected.json").exists()


@pytest.mark.e2e
def test_images_of_a_folder(tmp_path: Path, good: str, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (170, 190, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    assert run("verify", good, "--batch", "1", "--images", str(tmp_path)) == 0
    assert f"1 image at batch 1: 1 image from {tmp_path}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("nowhere.onnx",), 2, "nowhere.onnx"),
        (("GOOD", "--batch", "0"), 2, "--batch is '0'"),
        (("GOOD", "--tolerance", "tight"), 2, "tolerance is 'tight', expected one of fp32"),
        (("GOOD", "--atol", "-1"), 2, "atol is -1.0"),
        (("GOOD", "--precision", "fp12"), 2, "--precision"),
        (("GOOD", "--reference", "GOOD", "--model", "vit_tiny"), 2, "leave out --reference"),
        (("GOOD", "--reference", "nowhere.onnx"), 2, "nowhere.onnx"),
        (("GOOD", "--model", "no_such_model"), 2, "no_such_model"),
        (("GOOD", "--weights", "nowhere.pth"), 2, "nowhere.pth"),
        (("GOOD", "--bundle", "."), 2, "is not empty"),
        (("GOOD", "--bundle", "text"), 2, "is not a folder"),
    ],
)
def test_what_cannot_be_used(
    arguments: tuple[str, ...],
    code: int,
    words: str,
    good: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("text")
    assert run("verify", *(good if part == "GOOD" else part for part in arguments), "-q") == code
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert len(err.splitlines()) == 1


@pytest.mark.e2e
def test_a_bundle_appears_only_if_it_fails(good: str, bad: str, tmp_path: Path) -> None:
    bundle = tmp_path / "new" / "bundle"
    assert run("verify", good, "--batch", "1", "--bundle", str(bundle), "-q") == 0
    assert not bundle.parent.exists()
    assert run("verify", bad, "--batch", "1", "--bundle", str(bundle), "-q") == 4
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]
    assert json.loads((bundle / "report.json").read_text())["verification"][0]["layers"][5]["max_abs"] > 1e-3
