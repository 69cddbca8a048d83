"""The oldest versions that are allowed: each is stated, and those that a run had are held against them."""

from __future__ import annotations

import re
from importlib import metadata
from types import ModuleType
from typing import Any

import pytest

from tests.imports import load_script
from tofu_export.engines.flavours import RTX


@pytest.fixture(scope="module")
def oldest() -> ModuleType:
    return load_script(".ci/oldest.py")


def project(*lines: str, **extras: list[str]) -> dict[str, Any]:
    return {"dependencies": list(lines), "optional-dependencies": extras}


@pytest.fixture(scope="module")
def ours(oldest: ModuleType) -> dict[str, Any]:
    table: dict[str, Any] = oldest.tomllib.loads((oldest.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return table["project"]


def test_every_dependency_and_extra_has_a_lower_bound(oldest: ModuleType, ours: dict[str, Any]) -> None:
    assert set(oldest.bounds(ours, ours["optional-dependencies"])) >= {"torch", "torchvision", "timm", "ray", "ruff"}


def test_the_page_says_what_pyproject_does(oldest: ModuleType, ours: dict[str, Any]) -> None:
    page = (oldest.ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `?([\w-]+)`? \| ([\d.]+) \|", page, flags=re.MULTILINE))
    found = oldest.bounds(ours, ("rtx", "diffusion", "metrics", "ray", "parquet"))
    assert {name: listed.get(name) for name in found} == found
    assert ours["requires-python"] == f">={listed['Python']}"


def test_the_oldest_tensorrt_rtx_is_that_of_the_builder(oldest: ModuleType, ours: dict[str, Any]) -> None:
    (bound,) = (version for name, version in oldest.bounds(ours, ["rtx"]).items() if name.startswith("tensorrt-rtx"))
    assert oldest.release(bound)[:2] == RTX.minimum_version


def test_extras_bring_theirs_and_those_of_extras(oldest: ModuleType) -> None:
    table = project("a>=1", dev=["tofu-export[test]", "b>=2.1"], test=["c[image]>=3", "a>=1"], other=["d>=4"])
    assert oldest.bounds(table, ["dev"]) == {"a": "1", "b": "2.1", "c": "3"}


def test_an_upper_bound_may_follow(oldest: ModuleType) -> None:
    assert oldest.bounds(project("a>=1.6,<2"), []) == {"a": "1.6"}


@pytest.mark.parametrize("line", ["a", "a==1", "a<2", "a<2,>=1", "a>=1; python_version < '3.11'"])
def test_other_than_one_lower_bound_is_refused(oldest: ModuleType, line: str) -> None:
    with pytest.raises(ValueError, match=r"expected NAME>=VERSION"):
        oldest.bounds(project(line), [])


def test_two_lower_bounds_are_refused(oldest: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"two lower bounds of a, 1 and 2"):
        oldest.bounds(project("a>=1", x=["a>=2"]), ["x"])


@pytest.mark.parametrize(
    ("version", "same", "status"), [("1.2.0+cpu", "1.2", 0), ("1.2.1", "1.2", 1), ("1.20", "1.2", 1), ("10", "1", 1)]
)
def test_a_newer_one_fails(
    oldest: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    version: str,
    same: str,
    status: int,
) -> None:
    monkeypatch.setattr(oldest, "bounds", lambda *_: {"a": same})
    monkeypatch.setattr(metadata, "version", lambda _: version)
    monkeypatch.setattr(oldest.sys, "argv", ["oldest.py", "test,rtx"])
    assert oldest.main() == status
    out = capsys.readouterr()
    assert f"a {version}" in out.out.splitlines()
    assert (f"a: {version} is installed where {same} is the oldest allowed" in out.err) is bool(status)
