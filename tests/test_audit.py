"""The audit of locked versions: what fails it, and what is said where nothing could be audited."""

from __future__ import annotations

import subprocess
from types import ModuleType
from typing import Any

import pytest

from tests.imports import load_script


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    return load_script(".ci/audit.py")


def package(name: str, *vulnerabilities: str) -> dict[str, Any]:
    return {
        "name": name,
        "version": "1.0",
        "vulns": [{"id": found, "fix_versions": ["1.1"]} for found in vulnerabilities],
    }


def skipped(name: str) -> dict[str, Any]:
    return {"name": name, "skip_reason": f"Dependency not found on PyPI and could not be audited: {name} (1.0)"}


def run(audit: ModuleType, monkeypatch: pytest.MonkeyPatch, *documents: dict[str, Any] | None) -> int:
    answers = dict(zip(audit.SERVICES, documents, strict=True))
    monkeypatch.setattr(audit, "ask", answers.get)
    return audit.main()


def test_a_known_vulnerability_fails(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document = {"dependencies": [package("good"), package("bad", "PYSEC-1", "CVE-2"), skipped("local")]}
    assert run(audit, monkeypatch, document, None) == 1
    out = capsys.readouterr().out
    assert "bad 1.0: PYSEC-1, fixed in 1.1" in out
    assert "2 of 3 locked versions audited (pypi), 2 known vulnerabilities" in out
    assert "not audited, unknown there: local" in out


def test_none_known_passes(audit: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(audit, monkeypatch, {"dependencies": [package("good")]}, None) == 0


def test_the_second_service_counts_where_the_first_knows_nothing(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"dependencies": [package("bad", "OSV-1")]}
    assert run(audit, monkeypatch, {"dependencies": [skipped("bad")]}, found) == 1
    assert run(audit, monkeypatch, None, found) == 1


@pytest.mark.parametrize("answer", [None, {"dependencies": [skipped("a"), skipped("b")]}])
def test_nothing_audited_is_said_and_no_error(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: Any
) -> None:
    assert run(audit, monkeypatch, answer, answer) == 0
    assert capsys.readouterr().out.startswith("not audited: ")


def test_no_answer_is_none(audit: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "ConnectionError")

    monkeypatch.setattr(audit.subprocess, "run", fails)
    assert audit.ask("pypi") is None
