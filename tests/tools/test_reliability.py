"""A small part of the reliability trials, and whether they would notice: the harness must not rot between long runs."""

from __future__ import annotations

import hashlib
import json
import signal
from pathlib import Path
from random import Random

import pytest

from tools.reliability import faults, surroundings
from tools.reliability.inputs import CLASSES
from tools.reliability.outcome import Ended, Row, complaints
from tools.reliability.pool import run_class
from tools.reliability.program import Trials, not_whole, said_badly
from tools.reliability.seeds import Seeds, make_seeds
from tools.reliability.table import BEGIN, END, losses, markdown, write_into

QUICK = {"ONNX, read alone: lint, triton": 3, "pickles that run code": 2, "options and plan texts": 3}
"""Classes of which some trials run here, and how many."""


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Seeds:
    """Good files, without the engine, which takes longest."""
    folder = tmp_path_factory.mktemp("seeds")
    return make_seeds(folder, engine=False)


@pytest.mark.e2e
@pytest.mark.parametrize("name", QUICK)
def test_a_few_trials(name: str, seeds: Seeds) -> None:
    share = QUICK[name] / CLASSES[name].trials
    row = run_class(name, seed=0, seeds=seeds, jobs=1, share=share)
    assert (row.tried, row.lost, row.not_tried) == (QUICK[name], [], "")


def test_every_class_has_a_name_of_its_own_and_makes_the_same_trial_again(seeds: Seeds, tmp_path: Path) -> None:
    names = [*CLASSES, *(trials.name for trials in (*faults.TRIALS, *surroundings.TRIALS))]
    assert len(set(names)) == len(names)
    for name, kind in CLASSES.items():
        if not seeds.has(kind.needs):
            continue
        made = []
        for attempt in ("first", "second"):
            folder = tmp_path / hashlib.sha256(name.encode()).hexdigest()[:8] / attempt
            folder.mkdir(parents=True)
            call = kind.make(Random(f"0/{name}/1"), 1, folder, seeds)
            files = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
            arguments = [part.replace(str(folder), "") for part in call.arguments]
            made.append(
                (arguments, call.must_fail, {key: hashlib.sha256(data).digest() for key, data in files.items()})
            )
        assert made[0][:2] == made[1][:2], name
        if "pickle" not in name and "weights" not in name:  # those hold the path of what they would write
            assert made[0] == made[1], name


# --- Whether losses are noticed ------------------------------------------------------------------------------------

GOOD = Ended(("lint", "in.onnx"), 3, "", "tofu-export: error: no\n")


@pytest.mark.parametrize(
    ("ended", "written", "must_fail", "words"),
    [
        (GOOD, [], False, ""),
        (Ended(("lint", "x"), 1, "", "tofu-export: error: unexpected KeyError\n"), [], False, "exit code 1"),
        (Ended(("lint", "x"), -11, "", ""), [], False, "exit code -11"),
        (Ended(("lint", "x"), 0, "", ""), [], True, "it went through"),
        (Ended(("plan", "x"), 3, "", "Traceback (most recent call last):\nKeyError: 1\n"), [], False, "traceback"),
        (Ended(("verify", "x"), 4, "", "something else\n"), [], False, "without an error line"),
        (Ended(("verify", "x", "--json"), 0, "{", ""), [], False, "no document"),
        (Ended(("verify", "x", "--json"), 0, "", ""), [], False, "printed nothing"),
        (Ended(("verify", "x"), 0, "words", ""), [], False, "stdout without --json"),
        (GOOD, ["out.onnx"], False, "written in spite of the error"),
        (GOOD, [".tofu-export-1-a"], False, "left behind"),
        (Ended(("lint", "x"), 0, "", "", ("network: socket.connect",)), [], False, "network"),
    ],
)
def test_what_is_wrong_is_noticed(
    ended: Ended, written: list[str], must_fail: bool, words: str, tmp_path: Path
) -> None:
    for name in written:
        (tmp_path / name).write_bytes(b"")
    found = "; ".join(complaints(ended, tmp_path, frozenset(), must_fail=must_fail))
    assert words in found
    assert bool(found) == bool(words)


def test_files_that_are_not_whole_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"half")
    golden = {"model.onnx": hashlib.sha256(b"whole").digest()}
    assert list(not_whole(tmp_path, golden)) == ["model.onnx is not what an undisturbed run writes"]
    (tmp_path / "report.json").write_text(json.dumps({"artifacts": [{"path": "model.onnx", "sha256": "0"}]}))
    (tmp_path / "report.md").write_text("no line end")
    found = " ".join(not_whole(tmp_path, {"model.onnx": hashlib.sha256(b"half").digest()}))
    assert "model.onnx is not what report.json says" in found
    assert "report.md is cut" in found


def test_words_that_are_no_error_line_are_noticed() -> None:
    assert list(said_badly("tofu-export: error: interrupted\n", 130)) == []
    assert "no error line" in " ".join(said_badly("Killed", 137))
    assert "traceback" in " ".join(said_badly("Traceback (most recent call last): x", 1))


def test_trials_that_cannot_begin_are_lost(tmp_path: Path, seeds: Seeds) -> None:
    def body(row: Row, seed: int, seeds: Seeds, folder: Path) -> None:
        raise RuntimeError("it fails undisturbed")

    row = Trials("some", "something", body).run(0, seeds, tmp_path)
    assert (row.tried, row.survived) == (1, 0)


def test_a_signal_while_python_starts_is_no_excuse_for_our_traceback(tmp_path: Path) -> None:
    moment = faults._Moment(signal.SIGINT, faults._STARTING, 0.1)
    (tmp_path / "tmp").mkdir()
    theirs = 'Traceback (most recent call last):\n  File "site.py"\nKeyboardInterrupt'
    ours = 'Traceback (most recent call last):\n  File "/x/tofu_export/cli/main.py"\nKeyboardInterrupt'
    assert list(faults._wrong(moment, 1, theirs, tmp_path, {})) == []
    assert list(faults._wrong(moment, 1, ours, tmp_path, {})) != []


# --- The table -----------------------------------------------------------------------------------------------------


def rows() -> list[Row]:
    good, bad = Row("images", "an error"), Row("pickles", "an error", not_tried="half of them need torch")
    for code in (0, 2, 2):
        good.add(code, [], "somewhere")
    bad.add(1, ["traceback"], "trial 7")
    return [good, bad]


def test_the_table() -> None:
    text = markdown(rows(), "On a machine.")
    assert "| images | 3 | 0 | 0: 1, 2: 2 |" in text
    assert "| pickles | 1 | 1 | 1: 1 |" in text
    assert "| **in all** | **4** | **1** | |" in text
    assert "not tried, pickles: half of them" in text
    assert losses(rows()) == "LOST, pickles: trial 7: traceback\n"


def test_the_table_goes_to_its_place(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    write_into(page, "| new |\n")
    assert page.read_text(encoding="utf-8") == f"before\n{BEGIN}\n\n| new |\n\n{END}\nafter\n"
    write_into(page, "| new |\n")
    assert page.read_text(encoding="utf-8").count("| new |") == 1
    page.write_text("nothing\n", encoding="utf-8")
    with pytest.raises(ValueError, match="needs one line"):
        write_into(page, "| new |\n")
    assert page.read_text(encoding="utf-8") == "nothing\n"


def test_the_page_has_its_place_and_names_every_class() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text(encoding="utf-8")
    table = page.partition(f"{BEGIN}\n")[2].partition(END)
    assert table[1]
    names = {line.split("|")[1].strip() for line in table[0].splitlines() if line.startswith("|")}
    assert {*CLASSES, *(trials.name for trials in (*faults.TRIALS, *surroundings.TRIALS))} <= names
