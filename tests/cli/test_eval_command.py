"""`tofu-export eval`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import exported
from tests.cli.running import run
from tests.evaluate.pictures import picture


def test_the_demo_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "eval.json"
    assert run("eval", "demo_vit", "--r", "40", "--limit", "20", "-o", str(path), "--json") == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert json.loads(path.read_text(encoding="utf-8")) == document
    assert f"written: {path}" in err
    assert "top-1, reduced less full: " in err
    assert document["images"] == 20
    assert document["plan"]["r"] == 40
    assert f"top-1 {document['top1']:.2f} %" in err
    assert "agreement with the full model" in err


def test_a_plan_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "p.json")
    assert run("plan", "demo_vit", "--r", "20", "-o", path) == 0
    capsys.readouterr()
    assert run("eval", "demo_vit", "--plan-file", path, "--limit", "5", "--no-agreement") == 0
    err = capsys.readouterr().err
    assert "note" not in err
    assert "r = [20, 20" in err


def test_the_selection_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("eval", "demo_vit", "--r", "10", "--select", "energy", "--limit", "5", "--no-agreement") == 0
    assert "demo_vit, PPPWWWWWWWWW, chosen by energy, r = 10, torch; 5 images" in capsys.readouterr().err


def test_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("eval", "demo_vit", "--limit", "5", "-q") == 0
    assert capsys.readouterr() == ("", "")


def test_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(tmp_path / "1.png")
    path = str(exported.folder() / "model.fp32.onnx")
    assert run("eval", path, "--images", str(tmp_path), "--backend", "ort-cpu") == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "model.fp32.onnx, PWWWWW" in err
    assert "same class" in err
    assert run("eval", path, "--images", str(tmp_path), "--mode", "average") == 2
    assert "has its reduction in it: leave out --mode" in capsys.readouterr().err
    assert run("eval", path, "--images", str(tmp_path), "--backend", "trt") == 2
    assert "which trt does not run" in capsys.readouterr().err


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert run("eval", "demo_vit", "--images", str(tmp_path), "--json") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "broken.png cannot be read" in err.splitlines()[-1]
    assert "Traceback" not in err
