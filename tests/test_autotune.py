"""Choosing a recipe by time: the faster one, remembered, and the table's own where nothing is gained."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from tests import tiny
from tests.cli.running import run
from tofu_export import autotune as module
from tofu_export.autotune import CACHE_VARIABLE, Tuning, autotune
from tofu_export.engines.benchmark import Contender, Feeds
from tofu_export.errors import OptionError, OutputError
from tofu_export.export import INPUT_NAME
from tofu_export.graph_patterns.lowering import census
from tofu_export.graph_patterns.table import recipes_for
from tofu_export.options import Precision, Reduction, Target

BATCH = 2
FEEDS = {INPUT_NAME: np.zeros((BATCH, 3, tiny.SIDE, tiny.SIDE), dtype=np.float32)}
FIRST, *OTHERS = recipes_for(Target.ONNXRUNTIME, Precision.FP32)


class Paced:
    """A runner whose runs take the time given for its contender's name, 4 ms for any other."""

    device = "a clock"

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def bind(self, feeds: Feeds) -> Callable[[], object]:
        return lambda: time.sleep(self._seconds)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.02)
    monkeypatch.setattr(module, "WARMUP_MS", 0.0)


def tuned(folder: Path, paces: Mapping[str, float], opened: list[str] | None = None) -> Tuning:
    def opener(contender: Contender, threads: int | None) -> Paced:
        assert contender.path.is_file()
        if opened is not None:
            opened.append(contender.name)
        return Paced(paces.get(contender.name, 0.004))

    graph = tiny.canonical("cls", Reduction(r=2))
    before = census(graph)
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    result = autotune(
        graph, Target.ONNXRUNTIME, batch=BATCH, feeds=FEEDS, folder=scratch, cache=folder, open_runner=opener
    )
    assert census(graph) == before
    assert not list(scratch.iterdir())
    return result


def test_the_fastest_recipe_is_taken_and_remembered(tmp_path: Path) -> None:
    fast = str(OTHERS[2])
    opened: list[str] = []
    first = tuned(tmp_path, {fast: 0.001}, opened)
    assert (str(first.recipe), first.cached) == (fast, False)
    assert opened == [name for recipe in OTHERS for name in ("default", str(recipe))]
    assert [timing.recipe for timing in first.timings] == [str(recipe) for recipe in OTHERS]
    again = tuned(tmp_path, {}, opened := [])
    assert (again.recipe, again.timings, again.cached, opened) == (first.recipe, first.timings, True, [])


def test_the_first_recipe_stays_where_others_are_slower(tmp_path: Path) -> None:
    result = tuned(tmp_path, {str(recipe): 0.008 for recipe in OTHERS})
    assert result.recipe == FIRST
    assert not any(timing.gains for timing in result.timings)
    assert "the table's own is the fastest" in str(result)


def test_another_batch_is_measured_anew(tmp_path: Path) -> None:
    tuned(tmp_path, {})
    graph = tiny.canonical("cls", Reduction(r=2))
    seen: list[str] = []

    def opener(contender: Contender, threads: int | None) -> Paced:
        return Paced(0.004)

    feeds = {INPUT_NAME: np.concatenate([FEEDS[INPUT_NAME]] * 2)}
    result = autotune(
        graph, Target.ONNXRUNTIME, batch=4, feeds=feeds, folder=tmp_path, cache=tmp_path, on_recipe=seen.append,
        open_runner=opener,
    )  # fmt: skip
    assert not result.cached
    assert seen == [str(recipe) for recipe in OTHERS]
    assert len(list((tmp_path / "autotune").iterdir())) == 2


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"fingerprint": 1}', "null"])
def test_a_damaged_memory_is_measured_anew(damage: str, tmp_path: Path) -> None:
    tuned(tmp_path, {})
    (path,) = (tmp_path / "autotune").iterdir()
    path.write_text(damage, encoding="utf-8")
    assert not tuned(tmp_path, {}).cached
    assert len(json.loads(path.read_text(encoding="utf-8"))["timings"]) == len(OTHERS)


def test_timings_of_other_recipes_are_not_believed(tmp_path: Path) -> None:
    tuned(tmp_path, {})
    (path,) = (tmp_path / "autotune").iterdir()
    document = json.loads(path.read_text(encoding="utf-8"))
    document["timings"][0]["recipe"] = "some other one"
    path.write_text(json.dumps(document), encoding="utf-8")
    assert not tuned(tmp_path, {}).cached


def test_a_memory_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "autotune").write_text("a file where the folder should be", encoding="utf-8")
    with pytest.raises(OutputError, match=CACHE_VARIABLE):
        tuned(tmp_path, {})


@pytest.mark.parametrize("target", [Target.TENSORRT, Target.TENSORRT_RTX])
def test_tensorrt_is_not_timed_in_onnxruntime(target: Target, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="says nothing about tensorrt"):
        autotune(ir.Model(ir.Graph([], [], nodes=[]), ir_version=10), target, batch=1, feeds={}, folder=tmp_path)


def test_the_command_line_tunes_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    arguments = ["test_vit", "--r", "8", "--weights", "random", "--batch", "1:2:3", "--no-bench", "--no-engine"]
    out = tmp_path / "out"
    assert run(*arguments, "--autotune", "--json", "-o", str(out)) == 0
    document = json.loads(capsys.readouterr().out)
    fp32, fp16 = document["artifacts"]
    names = [str(recipe) for recipe in recipes_for(Target.PORTABLE, Precision.FP32)]
    assert fp32["autotune"]["recipe"] in names
    assert [row["recipe"] for row in fp32["autotune"]["timings"]] == names[1:]
    assert "autotune" not in fp16
    assert any(row["step"] == "autotune of model.fp16.onnx" for row in document["skipped"])
    assert all(row["passed"] for row in document["verification"])
    assert len(list((tmp_path / "cache" / "autotune").iterdir())) == 1


def test_the_command_line_refuses_to_tune_for_tensorrt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("test_vit", "--autotune", "--target", "tensorrt", "--weights", "random", "-o", str(tmp_path / "o")) == 2
    assert "--autotune times files in onnxruntime" in capsys.readouterr().err
