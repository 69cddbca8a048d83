"""README says what is: its links lead somewhere, its commands parse, its code runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from tofu_export.cli.derive import make
from tofu_export.cli.main import cli
from tofu_export.cli.start import ENDED
from tofu_export.diffusion.job import UnetJob
from tofu_export.errors import ExitCode
from tofu_export.job.request import Job

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


def written_by(command: str) -> set[str]:
    """The ONNX files of a command that exports, with its folder; none of another command."""
    name, *arguments = shlex.split(command.partition("#")[0])[1:]
    if name not in ("export", "unet"):
        if name in cli.commands:
            return set()
        name, arguments = "export", [name, *arguments]
    context = cli.commands[name].make_context(name, arguments, parent=click.Context(cli))
    given = {key: value for key, value in context.params.items() if key in ("model", "output", "precisions") and value}
    job = make(Job if name == "export" else UnetJob, given)
    return {f"{job.output}/{job.onnx_name(precision)}" for precision in job.precisions}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_have_the_names_that_the_commands_of_the_page_write(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    commands = re.findall(r"^ {4}(tofu-export .*)$", text, flags=re.MULTILINE)
    written: set[str] = set().union(*(written_by(command) for command in commands if "[OPTIONS]" not in command))
    folders = {path.partition("/model")[0] for path in written}
    named = set(re.findall(r"[\w./-]+/model[\w.-]*\.onnx\b", text))
    assert {path for path in named if path.partition("/model")[0] in folders} <= written


def test_readme_lists_the_files_of_its_command() -> None:
    (command,) = (command for command in COMMANDS if command.endswith("-o out"))
    listed = README.partition("`out/` then holds")[2].partition("\n\n")[0]
    assert {f"out/{name}" for name in re.findall(r"`(model[\w.]*\.onnx)`", listed)} == written_by(command)


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
    """In docs/options.md and in the help: every one, and no other."""
    codes = {*map(int, ExitCode), *ENDED}
    table = OPTIONS.partition("## Exit codes")[2]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", table, flags=re.MULTILINE)} == codes
    listed = (cli.help or "").partition("Exit codes:")[2]
    assert {int(code) for code in re.findall(r"\b(\d+) [a-z]", listed)} == codes


def test_the_number_of_models_is_that_of_the_catalogue() -> None:
    from tofu_export.zoo import catalog

    if catalog.names():
        assert f"[{len(catalog.names())} timm models]" in README
