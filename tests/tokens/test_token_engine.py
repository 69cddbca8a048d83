"""Token maps of engines. Without a GPU onnxruntime stands in for the plan; `pytest -m gpu` runs the real thing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import exported
from tests.cli.running import run
from tests.tokens.photos import photo, pixels
from tests.verification.machine import StandIn, plan_of
from tofu_export.engines.describing.sidecar import sidecar_path
from tofu_export.engines.flavours import RTX, TENSORRT, available
from tofu_export.errors import BackendMissingError, OptionError, VerificationError
from tofu_export.options import PATCH_GROUPS
from tofu_export.system.environment import collect
from tofu_export.system.ort import open_session
from tofu_export.tokens import read_source, token_engine
from tofu_export.tokens.token_engine import TokenEngine
from tofu_export.tokens.token_file import TokenFile
from tofu_export.verification.facts import FileFacts

needs_no_gpu = pytest.mark.skipif(collect().gpu is not None, reason="this machine has a GPU")


def engine_of(
    folder: Path, built_from: Path | None = None, says: Path | None = None, batch: tuple[int, int, int] = (1, 2, 3)
) -> Path:
    """A plan with the sidecar that it has after a build from one file, by default that with the map.

    `says`: another file, whose metadata the sidecar has.
    """
    built_from = built_from or exported.with_map()
    return plan_of(folder, built_from, batch=batch, metadata=dict(FileFacts.read(says or built_from).card.entries))


class Loader:
    """Loads onnxruntime in place of TensorRT; `disturb` is what is wrong with the plan."""

    def __init__(self) -> None:
        self.opened: list[StandIn] = []
        self.disturb: Callable[[dict[str, Any]], None] = lambda _: None

    def open(self, path: Path, flavour: object) -> StandIn:
        assert flavour is RTX
        self.opened.append(StandIn(open_session(Path(path.read_text(encoding="utf-8"))), self.disturb))
        return self.opened[-1]


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch) -> Loader:
    found = Loader()
    monkeypatch.setattr(token_engine, "open_engine", found.open)
    return found


@pytest.mark.e2e
def test_it_shows_the_last_map_of_its_file(loader: Loader, tmp_path: Path) -> None:
    path, images = engine_of(tmp_path), pixels(3)
    found = read_source(path)
    assert isinstance(found, TokenEngine)
    assert (found.grid, found.prefix, found.tokens) == ((10, 10), 1, 101)
    run_ = found.run(images)
    expected = TokenFile.read(exported.with_map()).run(images).states[-1]
    (state,) = run_.states
    assert state.step == expected.step
    assert np.array_equal(state.groups, expected.groups)
    assert run_.backend == "trt-rtx"
    assert run_.notes == (
        "an engine shows the last map alone, its output patch_groups: its ONNX file has one for each layer",
    )
    (stand_in,) = loader.opened
    assert stand_in.closed


def test_images_come_in_batches_that_the_profile_has(loader: Loader, tmp_path: Path) -> None:
    images = pixels(3)
    run_ = read_source(engine_of(tmp_path, batch=(2, 2, 4))).run(images)
    assert loader.opened[0].asked == [2, 2]
    assert run_.states[0].groups.shape == (3, 101)


def test_the_command_draws_it(loader: Loader, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, image, out = engine_of(tmp_path), photo(tmp_path / "a.jpg"), tmp_path / "map.png"
    assert run("tokens", str(path), str(image), "-o", str(out), "--json") == 0
    printed = capsys.readouterr()
    assert "model.engine on trt-rtx, after block 5: 53 tokens" in printed.err
    assert "an engine shows the last map alone" in printed.err
    document = json.loads(printed.out)
    assert (document["file"], document["backend"]) == ("model.engine", "trt-rtx")
    (state,) = document["images"][0]["states"]
    assert (state["layer"], state["tokens"], len(state["groups"])) == (5, 53, 101)
    with Image.open(out) as picture:
        drawn = np.asarray(picture)
    assert run("tokens", str(exported.with_map()), str(image), "-o", str(out), "--final", "-q") == 0
    with Image.open(out) as picture:
        assert picture.size == (drawn.shape[1], drawn.shape[0])
        title = 50
        assert np.array_equal(np.asarray(picture)[title:], drawn[title:])  # but for the name of the file


def test_an_engine_without_the_map_says_how_to_get_it(
    loader: Loader, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = engine_of(tmp_path, exported.folder() / "model.fp32.onnx")
    assert run("tokens", str(path), str(photo(tmp_path / "a.jpg")), "-o", str(tmp_path / "map.png")) == 2
    printed = capsys.readouterr()
    assert "model.engine is a TensorRT plan without the output patch_groups" in printed.err
    assert "export it with --token-map" in printed.err
    assert len(printed.err.strip().splitlines()) == 1
    assert loader.opened == []
    assert not (tmp_path / "map.png").exists()


def test_what_is_beside_it_may_be_wrong(loader: Loader, tmp_path: Path) -> None:
    """The sidecar promises a map that the plan does not have."""
    path = engine_of(tmp_path, exported.folder() / "model.fp32.onnx", says=exported.with_map())
    with pytest.raises(OptionError, match=r"without the output patch_groups"):
        read_source(path).run(pixels(1))
    assert loader.opened[0].closed


@pytest.mark.parametrize("source", [{}, {"plan": 1}, {"plan": {"layers": []}}], ids=str)
def test_an_engine_of_another_file_is_refused(source: dict[str, Any], loader: Loader, tmp_path: Path) -> None:
    path = plan_of(tmp_path, exported.with_map(), metadata=source)
    with pytest.raises(OptionError, match=r"model\.engine does not say which tokens it removes"):
        read_source(path)


def test_an_engine_without_its_sidecar_is_refused(loader: Loader, tmp_path: Path) -> None:
    path = engine_of(tmp_path)
    sidecar_path(path).unlink()
    with pytest.raises(OptionError, match=r"does not say what images it takes: there is no model\.engine\.json"):
        read_source(path)


@pytest.mark.parametrize("wrong", ["shifted", "short", "merged"])
def test_what_is_no_map_is_an_error(wrong: str, loader: Loader, tmp_path: Path) -> None:
    def disturb(found: dict[str, Any]) -> None:
        groups = found[PATCH_GROUPS]
        if wrong == "shifted":
            found[PATCH_GROUPS] = groups - 1
        elif wrong == "short":
            found[PATCH_GROUPS] = groups[:, :-1]
        else:
            groups[groups == groups.max()] = groups.max() - 1

    loader.disturb = disturb
    with pytest.raises(VerificationError, match=r"of model\.engine is no map of 100 patches onto 53 tokens"):
        read_source(engine_of(tmp_path)).run(pixels(1))
    assert loader.opened[0].closed


@needs_no_gpu
def test_without_a_gpu_the_exit_code_is_that_of_a_missing_backend(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = engine_of(tmp_path)
    with pytest.raises(BackendMissingError, match="this machine has none with a driver"):
        read_source(path).run(pixels(1))
    assert run("tokens", str(path), str(photo(tmp_path / "a.jpg")), "-o", str(tmp_path / "map.png")) == 5
    assert "runs on an NVIDIA GPU" in capsys.readouterr().err
    assert not (tmp_path / "map.png").exists()


@pytest.mark.gpu
@pytest.mark.skipif(collect().gpu is None, reason="no NVIDIA GPU with a driver")
@pytest.mark.parametrize("flavour", [RTX, TENSORRT], ids=["rtx", "tensorrt"])
def test_a_real_engine_shows_its_map(flavour: Any, tmp_path: Path) -> None:
    """In TF32 decisions between near equals may fall otherwise than in onnxruntime: most patches must not."""
    if flavour not in available():
        pytest.skip(f"{flavour.name} is not installed")
    source = tmp_path / "model.onnx"
    shutil.copyfile(exported.with_map(), source)
    path = tmp_path / "model.engine"
    assert run("build", str(source), "--flavour", flavour.name, "--batch", "1:2:3", "-o", str(path), "-q") == 0
    images = pixels(3)
    (state,) = read_source(path).run(images).states
    expected = TokenFile.read(source).run(images).states[-1].groups
    assert state.groups.shape == expected.shape
    assert ((state.groups == -1) == (expected == -1)).mean() > 0.9
