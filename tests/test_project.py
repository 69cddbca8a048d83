"""What surrounds the code: workflows run what exists, forms are forms, the paper is cited."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.imports import ROOT
from tests.yaml_files import load

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([\w-]+):", MAKEFILE, flags=re.MULTILINE))


def steps(workflow: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for job in workflow["jobs"].values():
        yield from job["steps"]


def test_the_workflows_are_there() -> None:
    assert [path.stem for path in WORKFLOWS] == ["docs", "lint", "minimum", "release", "test"]
    assert {"venv", "test", "lint", "docs", "minimum"} <= TARGETS


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
class TestWorkflow:
    def test_it_may_read_and_no_more(self, path: Path) -> None:
        workflow = load(path)
        assert workflow["permissions"] == {"contents": "read"}
        more = [job["permissions"] for job in workflow["jobs"].values() if "permissions" in job]
        expected = {"release": [{"id-token": "write"}], "docs": [{"pages": "write", "id-token": "write"}]}
        assert more == expected.get(path.stem, [])

    def test_runs_end_and_do_not_pile_up(self, path: Path) -> None:
        workflow = load(path)
        assert workflow["concurrency"]["cancel-in-progress"] is (path.stem != "release")
        assert all(0 < job["timeout-minutes"] <= 180 for job in workflow["jobs"].values())

    def test_actions_have_a_version(self, path: Path) -> None:
        used = [step["uses"] for step in steps(load(path)) if "uses" in step]
        assert used
        for action in used:
            assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v\d+)", action), action

    def test_what_it_makes_and_runs_exists(self, path: Path) -> None:
        commands = [step["run"] for step in steps(load(path)) if "run" in step]
        for command in commands:
            for words in re.findall(r"\bmake ([^\n&|;]+)", command):
                targets = [word for word in words.split() if re.fullmatch(r"[\w-]+", word)]
                assert targets and set(targets) <= TARGETS, command
            for script in re.findall(r"(\.ci/\S+)", command):
                assert (ROOT / script).is_file(), command


def test_the_tests_run_with_four_versions_of_python() -> None:
    versions = load(ROOT / ".github" / "workflows" / "test.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert versions == ["3.10", "3.11", "3.12", "3.13"]  # strings: 3.10 is no number


def test_only_a_tag_is_published() -> None:
    workflow = load(ROOT / ".github" / "workflows" / "release.yml")
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads `on` as true
    assert workflow["jobs"]["publish"]["needs"] == "build"
    build = " ".join(step.get("run", "") for step in workflow["jobs"]["build"]["steps"])
    assert ".ci/release.py" in build and ".ci/check_wheel.py" in build


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_is_one(path: Path) -> None:
    form = load(path)
    assert set(form) == {"name", "description", "labels", "body"}
    for field in form["body"]:
        assert field["type"] in ("input", "textarea") and field["id"] and field["attributes"]["label"]
    assert any(field.get("validations", {}).get("required") for field in form["body"])


def test_a_bug_comes_with_what_it_takes() -> None:
    fields = {field["id"]: field for field in load(ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml")["body"]}
    assert set(fields) == {"what", "command", "doctor", "version", "report"}
    assert "tofu-export doctor" in fields["doctor"]["attributes"]["label"]


def test_the_paper_is_cited() -> None:
    citation = load(ROOT / "CITATION.cff")
    (paper,) = citation["references"]
    assert (citation["cff-version"], citation["type"], paper["type"]) == ("1.2.0", "software", "conference-paper")
    assert (paper["year"], len(paper["authors"]), paper["authors"][0]["family-names"]) == (2024, 5, "Kim")
    assert "2312.01026" in paper["url"]
