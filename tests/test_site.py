"""The site holds every page, and its links lead where those of the project do."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.imports import ROOT, load_script
from tests.yaml_files import load


@pytest.fixture(scope="module")
def site() -> ModuleType:
    return load_script(".ci/site.py")


def test_every_page_is_in_the_nav_once(site: ModuleType) -> None:
    listed: list[str] = []
    waiting: list[Any] = [load(ROOT / "mkdocs.yml")["nav"]]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            listed.append(item)
        else:
            waiting += item.values() if isinstance(item, dict) else item
    docs = ROOT / "docs"
    pages = [path.relative_to(docs).as_posix() for path in docs.rglob("*.md")]
    assert sorted(listed) == sorted([*pages, *site.PAGES.values()])
    assert all((ROOT / source).is_file() for source in site.PAGES)


@pytest.mark.parametrize(
    ("source", "text", "expected"),
    [
        ("README.md", "[a](docs/engines.md#x)", "[a](engines.md#x)"),
        ("README.md", "![a](docs/report-top.png)", "![a](report-top.png)"),
        ("README.md", "[a](CONTRIBUTING.md)", "[a](contributing.md)"),
        ("README.md", "[a\nb](examples/txt2img.py)", "[a\nb](https://host/me/it/blob/HEAD/examples/txt2img.py)"),
        ("docs/paper.md", "[a](../README.md#measured)", "[a](index.md#measured)"),
        ("docs/paper.md", "[a](evidence.md) [b](#c) [d](https://e.org/f)", "[a](evidence.md) [b](#c) [d](https://e.org/f)"),
        ("docs/decisions/001-layout.md", "[a](../../README.md)", "[a](../index.md)"),
        ("docs/decisions/001-layout.md", "[a](../paper.md#b)", "[a](../paper.md#b)"),
        ("tofu_export/demo/README.md", "[a](../../docs/paper.md)", "[a](paper.md)"),
    ],
)  # fmt: skip
def test_links_are_those_of_the_site(site: ModuleType, source: str, text: str, expected: str) -> None:
    assert site.relinked(text, source, "https://host/me/it/") == expected


def test_source_code_is_named_where_there_is_no_repository(site: ModuleType) -> None:
    assert site.relinked("see [this one](../examples/txt2img.py).", "docs/paper.md", "") == "see this one."


def test_a_link_that_leads_nowhere_stays(site: ModuleType) -> None:
    assert site.relinked("[a](gone.md)", "README.md", "https://host/me/it") == "[a](gone.md)"


def build(root: Path, output: Path) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("material", reason="needs the docs extra")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(output)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


def test_it_is_built_without_a_warning(tmp_path: Path) -> None:
    done = build(ROOT, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Changelog" in (tmp_path / "changelog.html").read_text(encoding="utf-8")


def test_what_leads_nowhere_ends_the_build(site: ModuleType, tmp_path: Path) -> None:
    for name in ("docs", "mkdocs.yml", ".ci/site.py", *site.PAGES):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    more = {"README.md": "[a](docs/gone.md)", "docs/gpu.md": "[a](paper.md#gone)", "docs/new.md": "# New"}
    for name, text in more.items():
        with (tmp_path / name).open("a", encoding="utf-8") as page:
            page.write(f"\n{text}\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode == 1
    for words in ("a link 'docs/gone.md'", "an anchor '#gone'", "- new.md"):
        assert words in done.stderr, words
