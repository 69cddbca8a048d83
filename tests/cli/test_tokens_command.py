"""`tofu-export tokens`, as a user types it."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import exported
from tests.cli.running import run
from tests.tokens.photos import photo


@pytest.fixture(scope="module")
def model() -> str:
    return str(exported.folder() / "model.fp32.onnx")


def test_it_draws_and_says_what_it_drew(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "map.png"
    assert run("tokens", model, str(photo(tmp_path / "a.jpg")), str(photo(tmp_path / "b.png")), "-o", str(out)) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "after block 4: 61 tokens" in printed.err
    assert "a.jpg: " in printed.err
    assert "patches pruned" in printed.err
    with Image.open(out) as picture:
        whole = picture.size
    assert run("tokens", model, str(tmp_path / "a.jpg"), "-o", str(out), "--final", "-q") == 0
    assert capsys.readouterr().err == ""
    with Image.open(out) as picture:
        assert picture.size[1] < whole[1]
    assert [path.name for path in out.parent.iterdir()] == ["map.png"]


def test_json_has_the_groups_and_the_image(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("tokens", model, str(photo(tmp_path / "a.png")), "--json", "-q") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["kind"], document["schema_version"], document["model"]) == ("tokens", 1, "test_vit")
    (image,) = document["images"]
    with Image.open(io.BytesIO(base64.b64decode(image["png"]))) as picture:
        assert picture.size == (160, 160)
    assert [state["layer"] for state in image["states"]] == [0, 1, 2, 3, 4]
    for state in image["states"]:
        groups = np.array(state["groups"])
        assert len(groups) == document["tokens"] == 101
        assert state["pruned"] == (groups == -1).sum()
        assert state["pruned"] + state["merged"] + state["alone"] == 100
        assert set(groups.tolist()) - {-1} == set(range(state["tokens"]))
    assert not list(tmp_path.glob("tokens*"))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "give images to draw, or --demo N"),
        (("--demo", "1"), 2, "--demo has digits of 1x28x28, model.fp32.onnx takes 3x160x160"),
        (("a.png", "--demo", "1"), 2, "not both"),
        (("missing.png",), 2, "missing.png cannot be read"),
        (("a.png", "-o", "map.jpg"), 2, "expected a name that ends in .png"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_cannot_be_drawn_is_said(
    arguments: tuple[str, ...], code: int, message: str, model: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    photo(tmp_path / "a.png")
    assert run("tokens", model, *arguments) == code
    printed = capsys.readouterr()
    assert message in printed.err
    assert len(printed.err.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
