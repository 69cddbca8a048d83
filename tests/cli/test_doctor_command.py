"""`tofu-export doctor`: text, JSON, exit codes, speed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from tests.cli.running import run
from tofu_export.job import doctor
from tofu_export.job.doctor import Diagnosis, Finding, FlavourState, OrtState
from tofu_export.system.environment import Environment

ABOUT = Environment({"python": "3.11.7", "torch": None}, "Example", 2, "NVIDIA Example", "580.1", "Linux")
FOUND = Diagnosis(
    True,
    ABOUT,
    OrtState(("CPUExecutionProvider",)),
    (
        FlavourState("tensorrt-rtx", True, "1.7", ("SM80",), None, None),
        FlavourState("tensorrt", False, None, (), "it is absent", None),
    ),
    (Finding(False, "tensorrt is absent", 'pip install "tofu-export[tensorrt]"'),),
)


def test_this_installation(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "CPUExecutionProvider" in out
    assert "Exporting works." in out


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["healthy"] is True
    assert set(document) == {"healthy", "environment", "onnxruntime", "tensorrt", "findings"}
    assert document["environment"]["versions"]["onnx"]


def test_what_is_missing_comes_with_its_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: FOUND)
    assert run("doctor") == 0
    out = capsys.readouterr().out
    assert "NVIDIA Example, driver 580.1" in out
    assert "1.7, builds engines for SM80" in out
    assert "not usable: it is absent" in out
    assert 'missing: tensorrt is absent\n  pip install "tofu-export[tensorrt]"\n' in out


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_a_broken_requirement_is_exit_code_5(
    flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Finding(True, "torch is not installed", 'pip install "torch>=2.9"')
    monkeypatch.setattr(doctor, "examine", lambda: replace(FOUND, healthy=False, findings=(broken,)))
    assert run("doctor", *flags) == 5
    out = capsys.readouterr().out
    assert "torch is not installed" in out
    if not flags:
        assert 'BROKEN: torch is not installed\n  pip install "torch>=2.9"\n' in out


def test_needs_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['tofu-export', 'doctor']\n"
        "from tofu_export.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as ending: assert not ending.code\n"
        "assert not {'torch', 'timm'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
