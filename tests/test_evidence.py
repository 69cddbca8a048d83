"""The generated blocks of the docs have their shape, and a block that has not is found."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import numpy as np
import pytest

from tests.imports import ROOT, loaded_scripts
from tests.report.html import samples
from tofu_export.cli.main import cli
from tofu_export.evaluate.paired import Paired, compare

SCRIPTS = ("blocks", "evidence_runs", "evidence_order", "evidence_demo", "evidence_steps", "evidence")


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    with loaded_scripts("benchmarks", *SCRIPTS) as modules:
        yield modules


@pytest.fixture(scope="module")
def steps(scripts: dict[str, ModuleType]) -> ModuleType:
    return scripts["evidence_steps"]


@pytest.fixture(scope="module")
def evidence(scripts: dict[str, ModuleType]) -> ModuleType:
    return scripts["evidence"]


@pytest.fixture
def docs(tmp_path: Path, steps: ModuleType) -> Path:
    """A page with a block in the shape of one step."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.svg").write_text("<svg></svg>", encoding="utf-8")
    block = "    tofu-export x\n\n![a](images/a.svg)\n\n| r | top-1 |\n|---|---|\n| 8 | 97.8% |\n| 16 | 97.0% |\n"
    (tmp_path / "p.md").write_text(f"# P\n\n<!-- generated: b -->\n\n{block}\n<!-- end: b -->\n", encoding="utf-8")
    return tmp_path


@pytest.fixture
def step(scripts: dict[str, ModuleType]) -> Any:
    return scripts["evidence_runs"].Step(
        "p.md", "b", ("tofu-export x",), ("r", "top-1"), 2, lambda _: ("", {}), ("images/a.svg",)
    )


def test_the_pages_are_as_they_should_be(evidence: ModuleType) -> None:
    assert evidence.check(ROOT / "docs") == []
    assert evidence.main(["--check"]) == 0


def test_the_commands_are_commands(steps: ModuleType) -> None:
    commands = {command for step in steps.STEPS for command in step.commands}
    assert len(commands) >= 12
    for command in commands:
        program, name, *arguments = shlex.split(command)
        assert program == "tofu-export"
        if name not in cli.commands:
            name, arguments = "export", [name, *arguments]
        cli.commands[name].make_context(name, arguments, parent=click.Context(cli), resilient_parsing=False)


def test_the_commands_of_the_page_on_sweeps_parse() -> None:
    lines = (ROOT / "docs" / "sweep.md").read_text(encoding="utf-8").splitlines()
    commands = [line.strip() for line in lines if line.startswith("    tofu-export ")]
    assert len(commands) == 2
    for command in commands:
        _, name, *arguments = shlex.split(command)
        cli.commands[name].make_context(name, arguments, parent=click.Context(cli), resilient_parsing=False)


def test_a_good_block_is_good(evidence: ModuleType, step: Any, docs: Path) -> None:
    assert evidence.problems_of(step, docs) == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("<!-- end: b -->", "", "the block or its end is missing"),
        ("<!-- generated: b -->", "", "the block or its end is missing"),
        ("| 16 | 97.0% |\n", "", "1 rows, expected 2"),
        ("97.8%", "", "an empty cell in"),
        ("| 97.8% |", "| 97.8% | 1 |", "a row has not 2 cells"),
        ("97.8%", "nan%", "nan is no number"),
        ("97.8%", "None", "None is no number"),
        ("| r |", "| R |", "the table's columns are"),
        ("tofu-export x", "tofu-export y", "the command is not there"),
        ("![a](images/a.svg)", "", "is not shown"),
    ],
)
def test_a_bad_block_is_found(old: str, new: str, words: str, evidence: ModuleType, step: Any, docs: Path) -> None:
    page = docs / "p.md"
    text = page.read_text(encoding="utf-8")
    assert old in text
    page.write_text(text.replace(old, new, 1), encoding="utf-8")
    assert any(words in problem for problem in evidence.problems_of(step, docs))


def test_a_figure_that_is_none_is_found(evidence: ModuleType, step: Any, docs: Path) -> None:
    (docs / "images" / "a.svg").write_text("<svg>", encoding="utf-8")
    assert evidence.problems_of(step, docs) == ["p.md, b: images/a.svg is no SVG file"]


def test_blocks_that_no_step_makes_are_found(
    evidence: ModuleType, step: Any, docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "STEPS", (step,))
    assert evidence.check(docs) == []
    with (docs / "p.md").open("a", encoding="utf-8") as page:
        page.write("<!-- generated: c -->\n<!-- generated: b -->\n")
    assert evidence.check(docs) == ["p.md: no step makes the block c", "p.md: the block b is there twice"]


def test_a_block_is_put_in_its_place(evidence: ModuleType, step: Any, docs: Path) -> None:
    page = (docs / "p.md").read_text(encoding="utf-8")
    again = evidence.placed(page, step, "new text")
    assert again == "# P\n\n<!-- generated: b -->\n\n    tofu-export x\n\nnew text\n\n<!-- end: b -->\n"
    assert evidence.placed(again, step, "new text") == again
    with pytest.raises(ValueError, match="each once"):
        evidence.placed("# P\n", step, "new text")


def test_the_seconds_of_the_steps_add_up(evidence: ModuleType) -> None:
    lines = evidence.times({"gmacs": 1.5, "splits": 298.5}).splitlines()
    assert [line.split() for line in lines] == [
        ["gmacs", "1.5", "s"], ["splits", "298.5", "s"], ["all", "300.0", "s,", "5.0", "minutes"],
    ]  # fmt: skip


@pytest.mark.e2e
def test_a_command_runs_once_and_fresh_forgets_what_was_kept(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    runs = scripts["evidence_runs"].Runs(tmp_path / "out", jobs=1, fresh=False)
    command = "tofu-export plan demo_vit --r 4"
    assert runs.run(command)["plan"]["r"] == 4
    assert runs.run(command) is runs.run(command)
    state = tmp_path / "out" / "a.json.state.jsonl"
    state.write_text("{}\n", encoding="utf-8")
    cell = tmp_path / "out" / "cells" / "a.json"
    cell.parent.mkdir()
    cell.write_text("{}", encoding="utf-8")
    scripts["evidence_runs"].Runs(tmp_path / "out", jobs=1, fresh=False)
    assert state.exists()
    assert cell.exists()
    scripts["evidence_runs"].Runs(tmp_path / "out", jobs=1, fresh=True)
    assert not state.exists()
    assert not cell.exists()


class Canned:
    """Runs nothing: documents as the commands print them, by the command's name."""

    def __init__(self) -> None:
        self.commands: list[str] = []

    def run(self, command: str) -> dict[str, Any]:
        self.commands.append(command)
        layers, norms = samples.analysis()["layers"][:1] * 12, [0.9] * 12
        agreement = {**samples.evaluation()["agreement"], "feature_cosine_mean": 0.99}
        report = samples.report()
        names = ("full", *(f"model.{precision}.onnx" for precision in ("fp32", "fp16", "int8")))
        return {
            "demo_vit": {**report, "accuracy": [{"artifact": name, "top1": 0.98} for name in names]},
            "verify": {"verification": report["verification"]},
            "eval": samples.evaluation(agreement=agreement),
            "tune": samples.tuning(),
            "analyze": {
                **samples.analysis(), "r": 16, "layers": layers,
                "token_norms": dict.fromkeys(("prune", "average", "mlerp"), norms),
            },
        }[command.split()[1]]  # fmt: skip

    def file(self, name: str) -> bytes:
        return f"<svg>{name}</svg>".encode()


def test_the_blocks_of_the_demo_model_are_made_in_their_shape(
    scripts: dict[str, ModuleType], evidence: ModuleType, tmp_path: Path
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for step in scripts["evidence_demo"].DEMO_STEPS:
        runs = Canned()
        text, figures = step.make(runs)
        assert set(step.commands) <= set(runs.commands)
        assert set(figures) == set(step.figures)
        for name, data in figures.items():
            (docs / name).parent.mkdir(exist_ok=True)
            (docs / name).write_bytes(data)
        page = f"<!-- generated: {step.block} -->\n<!-- end: {step.block} -->\n"
        (docs / step.page).write_text(evidence.placed(page, step, text), encoding="utf-8")
        assert evidence.problems_of(step, docs) == []


def pair(first: int, second: int) -> Paired:
    """Two files, each of which alone is right on so many of 1,000 images."""
    a = np.array([1] * first + [0] * second + [1] * (1000 - first - second))
    b = np.array([0] * first + [1] * second + [1] * (1000 - first - second))
    return compare(a, b, np.ones(1000, dtype=np.int64))


@pytest.mark.parametrize(
    ("hybrid", "reverse", "words"),
    [
        ((60, 10), (60, 10), "confirmed at r = 8"),
        ((60, 10), (20, 20), "confirmed in part at r = 8"),
        ((20, 20), (21, 20), "neither confirmed nor contradicted at r = 8"),
        ((10, 60), (60, 10), "contradicted at r = 8"),
        ((60, 10), (10, 60), "contradicted at r = 8"),
        ((20, 9), (20, 20), "neither confirmed nor contradicted at r = 8"),  # p = 0.06
    ],
)
def test_the_verdict_on_the_order(
    hybrid: tuple[int, int], reverse: tuple[int, int], words: str, scripts: dict[str, ModuleType]
) -> None:
    text = scripts["evidence_order"].order_block({8: [pair(*hybrid), pair(*reverse), pair(0, 0), pair(0, 0)]})
    assert f"**The paper's order is {words}.**" in text


def test_many_tests_ask_for_more(scripts: dict[str, ModuleType]) -> None:
    """p = 0.003 counts among 4 tests and not among 24."""
    order_block = scripts["evidence_order"].order_block
    row = [pair(30, 10), pair(0, 0), pair(0, 0), pair(0, 0)]
    assert "is confirmed in part at r = 8." in order_block({8: row})
    six = order_block(dict.fromkeys((8, 16, 24, 32, 48, 64), row))
    assert "is neither confirmed nor contradicted at r = 8, 16, 24, 32, 48, 64." in six
