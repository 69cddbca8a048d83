"""`tofu-export unet`, as a user would call it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.cli.running import run
from tests.diffusion import tiny_unet
from tofu_export.diffusion.models import create_unet
from tofu_export.errors import ExitCode
from tofu_export.system.ort import open_session


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A UNet as diffusers saves it."""
    path = tmp_path_factory.mktemp("unet") / "small"
    create_unet(tiny_unet.SOURCE, seed=1).save_pretrained(path)  # type: ignore[operator]
    return path


@pytest.mark.e2e
def test_the_whole_way(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ["--latent-size", "8", "--text-tokens", "5", "--batch", "1:2:4", "--precision", "fp32", "--bench"]
    assert run("unet", str(folder), *arguments, "--threads", "1", "--json", "-o", str(out)) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert "verified at batch 1, 2, 3" in " ".join(captured.err.split())
    assert sorted(path.name for path in out.iterdir()) == ["model.onnx", "report.html", "report.json", "report.md"]
    assert json.loads((out / "report.json").read_text()) == report
    assert report["plan"]["pattern"] == "P-MM"
    assert report["verification"][0]["passed"]
    assert report["model"]["weights"]["kind"] == "file"
    assert [row["artifact"] for row in report["benchmark"]] == ["full", "model.onnx"]
    assert {row["step"] for row in report["skipped"]} == {"engines"}
    session = open_session(out / "model.onnx")
    assert json.loads(session.metadata["tofu_export.unet_plan"]) == report["plan"]
    noise = session.run(tiny_unet.inputs().random(3, 0))["out_sample"]
    assert noise.shape == (3, 4, 8, 8)
    assert np.isfinite(noise).all()
    assert (
        "| 0 | down_blocks.0.attentions.0.transformer_blocks.0 | 8x8 | prune | 64 | 32 | 32 |"
        in (out / "report.md").read_text()
    )


@pytest.mark.e2e
def test_bf16_is_typed_and_compared_in_float32(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["--latent-size", "8", "--text-tokens", "5", "--batch", "1:2:4", "--precision", "bf16", "-q"]
    assert run("unet", str(folder), *arguments, "-o", str(out)) == 0
    assert sorted(path.name for path in out.iterdir()) == ["model.onnx", "report.html", "report.json", "report.md"]
    graph = onnx.load(out / "model.onnx").graph
    weights = {tensor.data_type for tensor in graph.initializer if tensor.name.endswith("weight")}
    assert weights == {onnx.TensorProto.BFLOAT16}
    report = json.loads((out / "report.json").read_text())
    (found,) = report["verification"]
    assert found["passed"]
    assert 0 < found["relative"] < 1e-2
    assert found["decisions"]["compared"] > 0
    assert found["tolerance"]["name"] == "unet bf16 in fp32"
    assert "computed in FP32" in found["notes"][-1]


def test_dry_run_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("unet", "tiny", "--weights", "random", "--dry-run", "--latent-size", "15x17") == 0
    out = capsys.readouterr().out
    assert "15x17" in out
    assert "would write to tiny-tofu: model.fp32.onnx, model.fp16.onnx" in out
    assert run("unet", "tiny", "--weights", "random", "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["inputs"]["timestep"] == [1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["tiny"], ExitCode.EXPORT, "--weights random"),
        (["nowhere", "--weights", "random"], ExitCode.USAGE, "hf download"),
        (["tiny", "--weights", "random", "--ratio", "0.9"], ExitCode.USAGE, "to 0.75"),
        (["tiny", "--weights", "random", "--ratio", "0.001"], ExitCode.USAGE, "no block would be reduced"),
        (["sdxl", "--weights", "random"], ExitCode.USAGE, "--max-downsample 2"),
        (["tiny", "--weights", "random", "--latent-size", "0"], ExitCode.USAGE, "latent size"),
        (["tiny", "--weights", "random", "--precision", "int8"], ExitCode.USAGE, "int8"),
        (["tiny", "--weights", "random", "--bench", "--bench-batch", "9"], ExitCode.USAGE, "batch 9"),
        (["tiny", "--weights", "random", "--mode", "prune", "--boundary", "2"], ExitCode.USAGE, "leave out --boundary"),
        (["tiny", "--weights", "random", "--batch", "3:2:1"], ExitCode.USAGE, "MIN:OPT:MAX"),
    ],
)
def test_refused(
    arguments: list[str], code: ExitCode, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run("unet", *arguments, "-o", str(out)) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err
    assert "Traceback" not in captured.err
    assert not out.exists()


@pytest.mark.e2e
def test_a_wrong_file_is_not_published(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if tracing had lost the reduction of one block: exit code 4, the report alone, no model."""
    from tofu_export.diffusion import adapter as unet_run

    real = unet_run.verify_unet

    def compare(path, unet, *args, **kwargs):  # type: ignore[no-untyped-def]
        unet.conv_in.weight.mul_(1.01)
        return real(path, unet, *args, **kwargs)

    monkeypatch.setattr(unet_run, "verify_unet", compare)
    out = tmp_path / "out"
    arguments = ["--latent-size", "8", "--text-tokens", "5", "--batch", "1", "--precision", "fp32", "-q"]
    assert run("unet", str(folder), *arguments, "-o", str(out)) == ExitCode.VERIFICATION
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "report.json", "report.md"]
    assert not json.loads((out / "report.json").read_text())["verification"][0]["passed"]
