"""`examples/txt2img.py`, as a user would call it, on pipelines with random weights."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from tests.diffusion import tiny_pipeline
from tests.diffusion.tiny_pipeline import PIXELS
from tests.imports import load_script

PROMPT = ("--prompt", "a red fox", "--steps", "3")


@pytest.fixture(scope="module")
def example() -> ModuleType:
    return load_script("examples/txt2img.py")


@pytest.fixture
def folder() -> str:
    return str(tiny_pipeline.folder())


@pytest.mark.e2e
def test_full_and_reduced_side_by_side(
    example: ModuleType, folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(tiny_pipeline.full()), str(tiny_pipeline.reduced())]
    unets = [word for file in ("eager", *files) for word in ("--unet", file)]
    for name in ("one.png", "same.png"):
        assert example.main([folder, *unets, *PROMPT, "-o", str(tmp_path / name)]) == 0
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "same.png").read_bytes()
    whole = np.asarray(Image.open(tmp_path / "one.png")).astype(int)
    assert whole.shape == (PIXELS + example.BAR, 3 * PIXELS, 3)
    eager, full, reduced = np.split(whole[example.BAR :], 3, axis=1)
    assert np.abs(eager - full).max() <= 1
    assert np.abs(reduced - full).max() > 1
    labels = np.split(whole[: example.BAR], 3, axis=1)
    assert all(label.min() < 100 < 250 < label.max() for label in labels)  # black on white
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert all(" 4 steps, " in line and " ms a step (" in line for line in lines)
    assert lines[1].startswith(f"{files[0]}: ")


def test_prompts_of_a_file(example: ModuleType, folder: str, tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("a cat\n\n  a dog  \n")
    options = ["--unet", str(tiny_pipeline.reduced()), "--steps", "2"]
    out = tmp_path / "images"
    captions = ["--prompts", str(tmp_path / "captions.txt")]
    assert example.main([folder, *options, *captions, "--seed", "5", "-o", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["00000.png", "00001.png"]
    single = tmp_path / "single.png"
    assert example.main([folder, *options, "--prompt", "a dog", "--seed", "6", "-o", str(single)]) == 0
    assert single.read_bytes() == (out / "00001.png").read_bytes()


def test_options_reach_the_pipeline(example: ModuleType, folder: str, tmp_path: Path) -> None:
    pictures = []
    for index, options in enumerate(
        ([], ["--seed", "1"], ["--guidance", "1"], ["--negative", "grey"], ["--steps", "2"], ["--size", "16x24"])
    ):
        path = tmp_path / f"{index}.png"
        assert example.main([folder, *PROMPT, *options, "-o", str(path)]) == 0
        pictures.append(Image.open(path))
    assert [picture.size for picture in pictures] == [(PIXELS, PIXELS)] * 5 + [(24, 16)]
    assert len({picture.tobytes() for picture in pictures}) == 6


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--size", "24"], 2, "takes latents 8 high, expected 12"),
        (["--size", "big"], 2, "size is 'big'"),
        (["--seed", "-1"], 2, "seed is -1"),
        (["--steps", "0"], 2, "steps is 0"),
        (["--backend", "trt"], 2, "is no plan"),
        (["--unet", "gone.onnx"], 2, "gone.onnx does not exist"),
        (["--unet", "gone.engine"], 2, "gone.engine does not exist"),
        (["-o", "picture.jpg"], 2, "ends in .png"),
    ],
)
def test_refused(
    options: list[str],
    code: int,
    words: str,
    example: ModuleType,
    folder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    first = [folder, "--unet", str(tiny_pipeline.full()), "--prompt", "a", "-o", "x.png", "--steps", "1"]
    assert example.main([*first, *options]) == code
    err = capsys.readouterr().err
    assert err.startswith("txt2img: error: ")
    assert err.count("\n") == 1
    assert words in err
    assert list(tmp_path.iterdir()) == []


def test_prompts_that_cannot_be_read(
    example: ModuleType, folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captions, out = tmp_path / "captions.txt", str(tmp_path / "out")
    for words in ("cannot be read", "holds no prompt", "several UNets"):
        unets = ["--unet", "eager"] * (2 if words == "several UNets" else 1)
        assert example.main([folder, *unets, "--prompts", str(captions), "-o", out]) == 2
        assert words in capsys.readouterr().err
        captions.write_text("" if words == "cannot be read" else "a cat\n")
    assert not Path(out).exists()


def test_a_missing_folder(example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert example.main([str(tmp_path / "gone"), *PROMPT, "-o", str(tmp_path / "x.png")]) == 2
    assert "gone is not a folder" in capsys.readouterr().err
