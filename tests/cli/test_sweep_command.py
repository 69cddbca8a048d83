from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

import pytest
from rich.console import Console

from tests.cli.running import run
from tofu_export.cli.sweep_text import SweepListener
from tofu_export.sweep import run as sweep_run

QUICK = ("--weights", "random", "--limit", "6", "--seconds", "0", "--batch", "2")


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.e2e
def test_a_grid_with_a_model_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("sweep", "test_vit", "swin_tiny_patch4_window7_224", "--r", "8", *QUICK)
    assert run(*arguments, "--jobs", "2", "--parquet", "--json") == 3
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert (document["kind"], document["schema_version"]) == ("sweep", 1)
    full, reduced = document["rows"]
    assert (full["mode"], full["agreement"], full["speedup_vs_full"]) == ("full", 1.0, 1.0)
    assert (reduced["r"], reduced["pattern"], reduced["precision"], reduced["batch"]) == (8, "PWWWWW", "fp32", 2)
    assert reduced["images_per_sec"] > 0
    assert set(reduced["latency_ms"]) == {"median", "p95"}
    assert reduced["gmacs"] < reduced["gmacs_full"]
    assert 0 <= reduced["agreement"] <= 1
    assert reduced["top1"] is None
    assert (full["verified"], reduced["verified"]) == (True, True)
    (failure,) = document["failures"]
    assert (failure["model"], failure["exit_code"]) == ("swin_tiny_patch4_window7_224", 3)
    assert document["command"].startswith("tofu-export sweep test_vit")
    assert {path.name for path in Path("sweep_out").iterdir()} == {
        "cells", "pareto.png", "pareto.svg", "sweep.csv", "sweep.json", "sweep.md", "sweep.parquet",
    }  # fmt: skip
    assert json.loads(Path("sweep_out/sweep.json").read_text(encoding="utf-8")) == document
    assert "[1/2" in err
    assert "failed: swin_tiny_patch4_window7_224 all" in err
    assert "the images are generated" in err

    assert run("sweep", "test_vit", "--r", "8", *QUICK, "--no-bench") == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "evaluating: 2 finished before, 0 to do" in err
    assert "not verified" not in err

    assert run("sweep", "test_vit", "--r", "8", *QUICK, "--no-bench", "--no-verify") == 0
    err = capsys.readouterr().err
    assert "2 evaluations measured again: verify was True, is False" in err
    assert "2 of 2 rows are of files that were not verified (--no-verify)" in err
    document = json.loads(Path("sweep_out/sweep.json").read_text(encoding="utf-8"))
    assert [(row["verified"], row["notes"]) for row in document["rows"]] == [
        (False, ["not verified: switched off by --no-verify"])
    ] * 2


@pytest.mark.e2e
def test_a_kill_loses_only_the_cell_at_work(tmp_path: Path) -> None:
    grid = ("--r", "2", "--pattern", "A6,P6,M6")
    command = [sys.executable, "-m", "tofu_export.cli", "sweep", "test_vit", *grid, *QUICK, "--no-bench"]
    cells = tmp_path / "sweep_out" / "cells"
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        end = time.monotonic() + 60
        while len(list(cells.glob("*.json"))) < 2:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    finished = {path: path.stat().st_mtime_ns for path in cells.glob("*.json")}
    assert 2 <= len(finished) < 4
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "200"})
    assert f"evaluating: {len(finished)} finished before, {4 - len(finished)} to do" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert len(list(cells.glob("*.json"))) == 4
    assert not [path for path in cells.iterdir() if path.name.startswith(".")]


def test_ctrl_c_says_how_to_go_on(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep_run, "run_sweep", interrupted)
    assert run("sweep", "test_vit", *QUICK) == 130
    assert "interrupted; the same command goes on with what is in sweep_out" in capsys.readouterr().err
    assert not Path("sweep_out").exists()


def test_off_a_terminal_a_cell_that_takes_long_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: list[threading.Timer] = []

    class Timer(threading.Timer):
        """Goes off when the test says so."""

        def start(self) -> None:
            waiting.append(self)

        def cancel(self) -> None:
            waiting.remove(self)

    monkeypatch.setattr(threading, "Timer", Timer)
    text = io.StringIO()
    listener = SweepListener(Console(file=text, width=80))
    listener.begin("evaluating", 2, 0)
    listener.done("a quick cell", "done", 1.0)
    (timer,) = waiting
    timer.function(*timer.args)
    listener.done("a slow cell", "done", 20.0)
    assert not waiting
    listener.begin("timing", 0, 2)
    listener.close()
    assert not waiting
    assert text.getvalue().splitlines() == [
        "[1/2, 1.0 s] a quick cell: done",
        "[   ...  ] evaluating, 2 of 2 ...",
        "[2/2, 20.0 s] a slow cell: done",
        "timing: 2 finished before, 0 to do",
    ]
    SweepListener(Console(file=text), quiet=True).begin("evaluating", 2, 0)
    SweepListener(Console(file=io.StringIO(), force_terminal=True)).begin("evaluating", 2, 0)
    assert not waiting


def test_dry_run_lists_cells_and_gmacs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("sweep", "vit_base", "--r", "8,16", "--split", "PA", "--dry-run", "--batch", "1,8") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["vit_base", "0", "full", "fp32", "17.58", "1.00x"]
    assert lines[2].split() == ["vit_base", "8", "pattern", "A12", "fp32", "13.12", "1.34x"]
    assert lines[-1] == "27 files to make and evaluate, 54 timings"
    assert not Path("sweep_out").exists()

    assert run("sweep", "vit_base", "vit_nowhere", "--r", "8", "--dry-run", "--json") == 2
    document = json.loads(capsys.readouterr().out)
    assert document["kind"] == "sweep-plan"
    assert [(cell["r"], cell["batches"]) for cell in document["cells"]] == [(0, [8]), (8, [8])]
    assert [failure["model"] for failure in document["failures"]] == ["vit_nowhere"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--r", "x"), 2, "--r is 'x', expected whole numbers"),
        (("--r", "-1"), 2, "--r is '-1'"),
        (("--mode", "magic"), 2, "--mode is 'magic', expected some of weighted-mlerp"),
        (("--prune-layers", "a"), 2, "--prune-layers is 'a'"),
        (("--pattern", "XY"), 2, "pattern 'XY'"),
        (("--split", "PPA"), 2, "split 'PPA'"),
        (("--precision", "bf16"), 2, "leave bf16 out of --precision"),
        (("--batch", "0"), 2, "--batch is '0'"),
        (("--weights", "gone.pth"), 2, "no such file"),
        (("--weights", "random", "--images", "gone"), 2, "no such folder"),
        (("--ray", "127.0.0.1:6379", "--jobs", "2"), 2, "leave it out with --ray"),
        (("--ray", "nonsense"), 2, "--ray is 'nonsense'"),
        (("--jobs", "0"), 2, "--jobs"),
    ],
)
def test_what_cannot_be_used(
    arguments: tuple[str, ...], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if arguments[0] == "--ray":
        pytest.importorskip("ray", reason="needs ray")
    assert run("sweep", "test_vit", *arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert len(err.splitlines()) == 1
    assert not Path("sweep_out").exists()


@pytest.mark.parametrize(
    ("option", "package", "extra"), [("--parquet", "pyarrow", "parquet"), ("--ray=local", "ray", "ray")]
)
def test_an_extra_that_is_missing(
    option: str, package: str, extra: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert run("sweep", "test_vit", option) == 5
    assert f"pip install 'tofu-export[{extra}]'" in capsys.readouterr().err
