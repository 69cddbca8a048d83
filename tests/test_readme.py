"""README says what is: its links lead somewhere, its commands parse, its code runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from tofu_export.cli.main import cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")
OPTIONS = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
COMMANDS = sorted(
    {line.partition("#")[0].strip() for line in (README + OPTIONS).splitlines() if line.startswith("    tofu-export ")}
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert link.startswith("https://") or (page.parent / link).exists(), link


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str) -> None:
    name, *arguments = shlex.split(command)[1:]
    if name not in cli.commands:
        name, arguments = "export", [name, *arguments]
    cli.commands[name].make_context(name, arguments, parent=click.Context(cli), resilient_parsing=False)


@pytest.mark.e2e
@pytest.mark.parametrize("page", ["README.md", "docs/api.md"])
def test_the_python_blocks_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(compile(block, page, "exec"), namespace)  # our own page
    out = capsys.readouterr().out
    assert "True" in out
    assert "False" not in out


def test_readme_is_short() -> None:
    assert len(README.split()) <= 900


def test_exit_codes_are_those_of_the_code() -> None:
    from tofu_export.errors import ExitCode

    listed = {
        int(code)
        for code in re.findall(r"(?:^|[ ,])(\d) [a-z]", OPTIONS.partition("Exit codes:")[2].partition("\n\n")[0])
    }
    assert listed == {int(code) for code in ExitCode} - {1}


def test_the_number_of_models_is_that_of_the_catalogue() -> None:
    from tofu_export.zoo import catalog

    if catalog.names():
        assert f"[{len(catalog.names())} timm models]" in README
