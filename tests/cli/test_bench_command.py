"""`tofu-export bench`: tables on stderr, one document on stdout, exit codes."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarking.graphs import affine
from tests.cli.running import run
from tests.engines import models
from tofu_export.benchmarking.backends import BACKENDS
from tofu_export.system import ort

QUICK = ("--seconds", "0", "--warmup", "0", "--iterations", "3", "--threads", "1")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two files, the second one with another input and a quarter of the GMACs."""
    monkeypatch.chdir(tmp_path)
    affine(Path("full.onnx"), gmacs="2.0")
    affine(Path("reduced.onnx"), name="pixels", gmacs="0.5")
    return ["full.onnx", "reduced.onnx"]


def test_tables_and_sentences_go_to_stderr(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", *files, *QUICK, "--batch", "1,8") == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "against full.onnx" in err
    assert "reduced.onnx at batch 8: " in err
    assert "x full.onnx for 4.00x fewer GMACs (" in err
    assert sum(line.startswith("reduced.onnx is ") for line in err.splitlines()) == 2
    assert "=== Performance summary ===" not in err


def test_json_is_one_document(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", *files, *QUICK, "--profile", "--json", "-q", "--baseline", "reduced.onnx") == 0
    out, err = capsys.readouterr()
    assert err == ""
    document = json.loads(out)
    assert list(document) == [
        "schema_version", "command", "environment", "settings",
        "baseline", "recorded_baseline", "files", "benchmark", "realised", "profile", "products", "warnings",
    ]  # fmt: skip
    assert document["command"].startswith("tofu-export bench full.onnx reduced.onnx --seconds 0")
    assert document["environment"]["versions"]["onnxruntime"]
    assert document["baseline"] == "reduced.onnx"
    assert document["benchmark"][1]["speedup_vs_full"] == 1
    assert document["profile"][0]["kinds"]["mlp"]["share"] == 1
    assert document["profile"][0]["reduction"]["kernels"] == 0
    assert document["realised"][0]["gmacs_ratio"] == 0.25


def test_profile_shows_parts_and_the_reduction(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", *files, *QUICK, "--profile", "-v") == 0
    err = capsys.readouterr().err
    assert "time by part, batch 1" in err
    assert "reduction in reduced.onnx: none" in err
    assert "reduced.onnx, batch 1, ms by block" in err
    assert "full.onnx, batch 1, by operator" in err
    assert err.count("=== Performance summary ===") == 2


def test_products_alone_are_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = models.save(models.block(), tmp_path, "block.onnx")
    assert run("bench", str(path), *QUICK, "--products", "--json", "--batch", "2") == 0
    out, err = capsys.readouterr()
    assert "block.onnx at batch 2: its 2 matrix products alone take " in err
    (entry,) = json.loads(out)["products"]
    assert entry["share"] > 0


def test_a_file_without_products_cannot_have_them_timed(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", "full.onnx", *QUICK, "--products") == 2
    assert "full.onnx has no matrix products" in capsys.readouterr().err


def test_csv_beside_the_table(files: list[str], tmp_path: Path) -> None:
    assert run("bench", *files, *QUICK, "--csv", "new/times.csv", "-q") == 0
    with (tmp_path / "new" / "times.csv").open(encoding="utf-8", newline="") as file:
        assert [row["artifact"] for row in csv.DictReader(file)] == ["full.onnx", "reduced.onnx"]
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["times.csv"]


def test_a_failure_leaves_no_csv(files: list[str], tmp_path: Path) -> None:
    assert run("bench", *files, *QUICK, "--csv", "new/times.csv", "--batch", "1,1") == 2
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no file given"),
        (("full.onnx", "full.onnx"), "given twice"),
        (("full.onnx", "--batch", "0"), "--batch is '0', expected batch sizes"),
        (("full.onnx", "--batch", "2,2"), "batch sizes 2, 2 repeat"),
        (("full.onnx", "--baseline", "x.onnx"), "--baseline 'x.onnx' is not among the files"),
        (("full.onnx", "--backend", "abacus"), "--backend is 'abacus'"),
        (("full.onnx", "--shape", "x"), "expected NAME:SIZES"),
        (("full.onnx", "--shape", "x:1x4"), "--shape gives x 1x4"),
        (("full.onnx", "--csv", "."), "is a folder"),
        (("full.onnx", "--backend", "ort-cuda", "--profile"), "--profile reads onnxruntime's CPU kernels"),
        (("full.onnx", "--threads", "0"), "--threads"),
        (("full.onnx", "--seconds", "-1"), "--seconds"),
    ],
)
def test_what_cannot_be_used(
    arguments: tuple[str, ...], words: str, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        run("bench", *arguments, *(QUICK if "--seconds" not in arguments and "--threads" not in arguments else ())) == 2
    )
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(("name", "code"), [("nowhere.onnx", 2), ("text.onnx", 3), (".", 2)])
def test_what_is_no_model(name: str, code: int, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("text.onnx").write_text("no model", encoding="utf-8")
    assert run("bench", "full.onnx", name, *QUICK) == code
    assert name in capsys.readouterr().err


def test_a_backend_that_is_missing(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    if BACKENDS["ort-cuda"] in ort.providers_usable():
        pytest.skip("CUDA works here")
    assert run("bench", *files, "--backend", "ort-cpu,ort-cuda", *QUICK) == 5
    assert "CUDAExecutionProvider" in capsys.readouterr().err


def test_needs_no_torch(files: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['tofu-export', 'bench', *{files!r}, *{QUICK!r}, '--profile', '--json']\n"
        "from tofu_export.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as ending: assert not ending.code\n"
        "assert not {'torch', 'timm'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


DATA = Path(__file__).parents[1] / "benchmarking" / "data"


def test_records_of_trtexec_alone(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("fast.log").write_text((DATA / "trtexec.log").read_text(encoding="utf-8").replace("9.19214", "4.59607"))
    arguments = (
        "--trtexec-log",
        str(DATA / "trtexec.log"),
        "--trtexec-log",
        "fast.log",
        "--csv",
        "times.csv",
        "--json",
    )
    assert run("bench", *arguments) == 0
    out, err = capsys.readouterr()
    assert "trt on NVIDIA Example" in err
    assert "fast.log is 2.00x trtexec.log at batch 8 (runs apart from each other, spread unknown)" in err
    document = json.loads(out)
    assert document["recorded_baseline"] == "trtexec.log"
    assert [row["gpu_compute_ms"] for row in document["benchmark"]] == [8.70215, 8.70215]
    assert len(Path("times.csv").read_text(encoding="utf-8").splitlines()) == 3


def test_records_beside_files(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    times = DATA / "trtexec_times.json"
    assert run("bench", *files, *QUICK, "--batch", "4", "--trtexec-times", str(times), "--json") == 0
    out, err = capsys.readouterr()
    assert "ort-cpu on " in err
    assert "trt on unknown GPU" in err
    assert [(row["backend"], row["batch"]) for row in json.loads(out)["benchmark"]] == [
        ("ort-cpu", 4), ("ort-cpu", 4), ("trt", 4),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--trtexec-log", "full.onnx"), "expected the output of one run of trtexec"),
        (("--trtexec-times", "full.onnx", "--batch", "1"), "not what trtexec writes with --exportTimes"),
        (("--trtexec-times", "full.onnx"), "give it with --batch"),
        (("--trtexec-log", "gone.log"), "cannot read gone.log"),
        (("--trtexec-log", str(DATA / "trtexec.log"), "--profile"), "no file given"),
        (("--trtexec-log", str(DATA / "trtexec.log"), "--baseline", "x"), "--baseline 'x' is not among the runs"),
    ],
)
def test_records_that_cannot_be_used(
    arguments: tuple[str, ...], words: str, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("bench", *arguments) == 2
    assert words in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("taken").write_text("a file", encoding="utf-8")
    assert run("bench", *files, *QUICK, "--csv", "taken/times.csv") == 2
    err = capsys.readouterr().err
    assert err.startswith("tofu-export: error: --csv: cannot write to taken: it is a file, expected a folder")
    assert "-o" not in err
