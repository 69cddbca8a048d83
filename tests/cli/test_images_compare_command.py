"""`tofu-export images-compare`, as a user would call it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.running import run
from tests.image_metrics.stand_ins import pixels, save_image, save_images
from tofu_export.errors import ExitCode


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Three pairs, one of them equal; torch's cache is empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    save_images(tmp_path / "a", range(3))
    save_images(tmp_path / "b", range(3))
    save_image(tmp_path / "b" / "00001.png", pixels(5))
    save_image(tmp_path / "b" / "00002.png", pixels(6))
    return str(tmp_path / "a"), str(tmp_path / "b")


def test_table(folders: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("images-compare", *folders, "--per-image") == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "3 and 3 images, 3 pairs"
    assert lines[1].startswith("  PSNR ") and " dB   worst " in lines[1]
    assert lines[2].startswith("  SSIM ")
    assert lines[4].split() == ["PSNR", "SSIM", "image"]
    assert lines[5].split() == ["inf", "1.0000", "00000"]
    assert len(lines) == 8
    assert "left out: MS-SSIM: the smallest image has a side of 32 pixels" in err
    assert "left out: FID, KID: weights-inception-2015-12-05-6726825d.pth is not in " in err
    assert "https://" in err and "--network-weights DIR" in err
    assert "note: 1 of 3 pairs are equal" in err


def test_json(folders: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("images-compare", *folders, "--json", "--per-image", "-q") == 0
    out, err = capsys.readouterr()
    assert err == ""
    document = json.loads(out)
    assert set(document) == {
        "schema_version", "command", "images", "metrics", "skipped", "notes", "environment", "rows",
    }  # fmt: skip
    assert document["images"] == {"a": 3, "b": 3, "pairs": 3}
    assert set(document["metrics"]) == {"psnr", "ssim"}
    assert set(document["metrics"]["psnr"]) == {"mean", "worst", "pairs", "unit", "identical"}
    assert document["rows"][0]["psnr"] is None
    assert document["command"].startswith("tofu-export images-compare ")
    assert run("images-compare", *folders, "--json", "-q", "--metrics", "psnr") == 0
    document = json.loads(capsys.readouterr().out)
    assert (set(document["metrics"]), document["skipped"], "rows" in document) == ({"psnr"}, [], False)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["{a}", "{a}/gone"], ExitCode.USAGE, ["gone does not exist"]),
        (["{a}", "{b}/00000.png"], ExitCode.USAGE, ["compare two images, or two folders"]),
        (["{a}", "{b}", "--metrics", "vif"], ExitCode.USAGE, ["vif", "psnr, ssim, ms_ssim"]),
        (["{a}", "{b}", "--metrics", "lpips"], ExitCode.EXPORT, ["alexnet-owt", "https://", "--network-weights DIR"]),
        (["{a}", "{b}", "--metrics", "fid"], ExitCode.EXPORT, ["weights-inception", "https://", "--download"]),
        (["{a}", "{b}", "--metrics", "ms-ssim"], ExitCode.USAGE, ["176"]),
        (["{a}", "{b}", "--seed", "-1"], ExitCode.USAGE, ["--seed"]),
        (["{a}"], ExitCode.USAGE, ["'B'"]),
    ],
)
def test_refused(
    arguments: list[str],
    code: ExitCode,
    words: list[str],
    folders: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("images-compare", *(one.format(a=folders[0], b=folders[1]) for one in arguments)) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert all(word in err for word in words), err
