"""The version is written once, and a tag is released only if everything names it."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

from tests.imports import ROOT, load_script


@pytest.fixture(scope="module")
def release() -> ModuleType:
    return load_script(".ci/release.py")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.4.0"\n', encoding="utf-8")
    (tmp_path / "CITATION.cff").write_text("cff-version: 1.2.0\nversion: 1.4.0\n", encoding="utf-8")
    (tmp_path / "CHANGELOG.md").write_text("## [Unreleased]\n\n## [1.4.0] 2026-01-02\n", encoding="utf-8")
    return tmp_path


def test_it_is_the_same_everywhere(release: ModuleType) -> None:
    version = release.written_version()
    assert release.cited_version() == version
    assert metadata.version("tofu-export") == version
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## .*\b{re.escape(version)}\b", changes, flags=re.MULTILINE)
    shown = subprocess.run([sys.executable, "-m", "tofu_export.cli", "--version"], capture_output=True, text=True)
    assert shown.stdout.split()[-1] == version


def test_no_module_writes_it(release: ModuleType) -> None:
    version = release.written_version()
    folders = ("tofu_export", "cli", "engines", "graph_patterns", "benchmarks", "examples")
    texts = {path: path.read_text(encoding="utf-8") for name in folders for path in (ROOT / name).rglob("*.py")}
    assert len(texts) > 100
    written = re.compile(rf"""["']{re.escape(version)}["']|__version__ = ["']""")
    assert [path for path, text in texts.items() if written.search(text)] == []


def test_a_tag_that_fits_is_released(release: ModuleType, project: Path) -> None:
    assert release.faults("v1.4.0", project) == []


@pytest.mark.parametrize("tag", ["1.4.0", "v1.4", "v1.4.1", "v1.4.0rc1"])
def test_another_tag_is_not(release: ModuleType, project: Path, tag: str) -> None:
    assert release.faults(tag, project) == [
        f"the tag is {tag}, expected v1.4.0: change version in pyproject.toml, or tag again"
    ]


@pytest.mark.parametrize(
    ("name", "old", "words"),
    [
        ("CITATION.cff", "version: 1.4.0", "CITATION.cff has version 1.3.9, expected 1.4.0"),
        ("CHANGELOG.md", "[1.4.0]", "CHANGELOG.md has no section ## [1.4.0]: rename [Unreleased]"),
    ],
)
def test_what_was_forgotten_is_said(release: ModuleType, project: Path, name: str, old: str, words: str) -> None:
    text = (project / name).read_text(encoding="utf-8")
    (project / name).write_text(text.replace(old, old.replace("1.4.0", "1.3.9")), encoding="utf-8")
    assert release.faults("v1.4.0", project) == [words]
