"""Checkpoints with trained predictors through the whole job: plan, files, verification, report, engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.cli.running import run
from tests.zoo.checkpoints import filled
from tests.zoo.jax_arrays import make
from tofu_export.engines.flavours import RTX, available
from tofu_export.patch.predictors import PredictorShape, attach
from tofu_export.planning.trained import PredictorKind

shapes = pytest.mark.parametrize(
    "shape",
    [PredictorShape(PredictorKind.DYNAMICVIT, 3), PredictorShape(PredictorKind.SPVIT, 3, 2)],
    ids=lambda shape: shape.kind.value,
)


def checkpoint(folder: Path, shape: PredictorShape) -> str:
    path = folder / "checkpoint-best.pth"
    torch.save({"model": filled(attach(make(), shape)).state_dict()}, path)
    return str(path)


@pytest.mark.e2e
@shapes
def test_a_job_from_the_checkpoint_to_verify(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], shape: PredictorShape
) -> None:
    path, out = checkpoint(tmp_path, shape), tmp_path / "out"
    asked = ("--select", "predictor", "--keep-rate", "0.6", "--precision", "fp32,fp16", "--batch", "1:2:3")
    more = ("--no-engine", "--no-bench", "--json", "-q", "-o", str(out))
    assert run("test_vit", "--weights", path, *asked, *more) == 0
    report = json.loads(capsys.readouterr().out)
    plan = report["plan"]
    assert (plan["select"], plan["predictor"], plan["asked"]) == ("predictor", shape.kind.value, {"keep_rate": 0.6})
    assert [row["layer"] for row in plan["layers"] if row["removed"]] == [1, 3, 4]
    assert all(entry["passed"] for entry in report["verification"])
    for precision in ("fp32", "fp16"):
        assert run("verify", str(out / f"model.{precision}.onnx"), "--weights", path, "--batch", "1", "-q") == 0
    assert f"chosen by the predictors of {shape.kind.value}" in (out / "report.md").read_text(encoding="utf-8")


def test_dropping_the_predictors_that_are_to_choose_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkpoint(tmp_path, PredictorShape(PredictorKind.DYNAMICVIT, 3))
    asked = ("test_vit", "--weights", path, "--allow-dropped", "-o", str(tmp_path / "out"), "--dry-run")
    assert run(*asked) == 0
    assert "dropped: score_predictor.0" in capsys.readouterr().out
    assert run(*asked, "--select", "predictor") == 2
    assert "by --weights PATH, without --allow-dropped" in capsys.readouterr().err


@pytest.mark.e2e
@pytest.mark.rtx
@pytest.mark.skipif(RTX not in available(), reason="tensorrt_rtx is not installed")
@shapes
def test_an_engine_in_fp16(tmp_path: Path, capsys: pytest.CaptureFixture[str], shape: PredictorShape) -> None:
    path, out = checkpoint(tmp_path, shape), tmp_path / "out"
    asked = ("--select", "predictor", "--precision", "fp16", "--batch", "1:2:4", "--engine")
    more = ("--compute-capability", "SM89", "--no-verify", "--no-bench", "--json", "-q", "-o", str(out))
    assert run("test_vit", "--weights", path, *asked, *more) == 0
    _, engine = json.loads(capsys.readouterr().out)["artifacts"]
    assert engine["fusions"]["fused_attention"]["in_engine"] == 6
