"""Quantised files and forms of attention through the whole job: metadata, report, receipt."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from tests.cli.running import run
from tofu_export.artifact.card import ModelCard
from tofu_export.engines.flavours import RTX, available

COMMAND = ("test_vit", "--weights", "random", "--r", "8", "--batch", "1:1:2", "--no-bench", "--json", "-q")


@pytest.mark.e2e
@pytest.mark.rtx
@pytest.mark.skipif(RTX not in available(), reason="tensorrt_rtx is not installed")
def test_attention_in_fp8_and_what_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    asked = ("--precision", "fp8", "--quantize-attention", "--quantize-skip", "0,mlp.fc2")
    assert run(*COMMAND, *asked, "--engine", "--compute-capability", "SM89", "-o", str(out)) == 0
    document = json.loads(capsys.readouterr().out)
    file, engine = document["artifacts"]
    calibration = file["calibration"]
    assert (calibration["products"], calibration["attentions"], calibration["skip"]) == (15, 4, ["0", "mlp.fc2"])
    made = {name: part["in_engine"] for name, part in engine["fusions"].items() if "in_engine" in part}
    assert made == {"quantized_products": 15, "fused_attention": 6, "quantized_attention": 4}
    assert engine["fusions"]["why_not_fused"] == {}
    text = (out / "report.md").read_text(encoding="utf-8")
    assert "15 products and 4 attentions in fp8" in text
    assert "4 of 4 attentions in 8 bits" in text
    assert document["verification"][0]["passed"]


@pytest.mark.e2e
def test_the_form_of_attention_travels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In FP16; the FP32 file of the same job has none."""
    out = tmp_path / "out"
    asked = ("--precision", "fp32,fp16", "--attention", "unfused")
    assert run(*COMMAND, *asked, "--no-engine", "-o", str(out)) == 0
    document = json.loads(capsys.readouterr().out)
    assert [entry.get("attention") for entry in document["artifacts"]] == [None, "unfused"]
    assert all(entry["passed"] for entry in document["verification"])
    found = [ModelCard.of_model(onnx.load(out / f"model.{name}.onnx"), name).entries for name in ("fp32", "fp16")]
    assert "attention" not in found[0]
    assert found[1]["attention"] == "unfused"
    assert run("verify", str(out / "model.fp16.onnx"), "--batch", "1", "-q") == 0
