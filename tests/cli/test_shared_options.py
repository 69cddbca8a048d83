"""Options of one name are one thing in all commands, but for what is listed here; and help that shows them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import click
import pytest

from tofu_export.cli.main import cli
from tofu_export.cli.sections import SectionedCommand
from tofu_export.options.declaration import Section

DIFFER = {
    "--backend": "bench compares several, eval runs one",
    "--batch": "sizes to serve, sizes to run, or images at a time; a UNet's are two for each image",
    "--bench": "sweep times each file of its grid",
    "--compute-capability": "lint looks at GPUs, the others build for them",
    "--engine": "a UNet's need 11 GB",
    "--gmacs": "tune has it as a budget, the others in place of r",
    "--images": "they are put to different uses",
    "--limit": "tune splits them",
    "--mode": "sweep takes several, a UNet has other ones",
    "--output": "each command writes something else",
    "--pattern": "sweep takes several, and counts such as P6M6",
    "--precision": "files to write, in what a command can, or what one file is",
    "--prop-attn": "sweep takes several",
    "--prune-layers": "sweep takes several",
    "--quiet": "check and lint print nothing else",
    "--r": "sweep takes several, analyze counts pairs",
    "--seed": "it says what is drawn",
    "--select": "sweep takes several",
    "--speedup": "as --gmacs",
    "--verify": "sweep goes on without wrong files",
    "--verbose": "it says what more there is",
    "--weights": "a UNet has no pretrained ones by name",
}
"""Options whose type or words differ between commands, and why."""


def options() -> Iterator[tuple[str, str, click.Option]]:
    """Command, name, option; without those of `--help`."""
    for name, command in cli.commands.items():
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                yield name, next(text for text in parameter.opts if text.startswith("--")), parameter


def essence(option: click.Option) -> tuple[Any, ...]:
    """What has to be the same: all but the default, which a command may have of its own."""
    kind = option.type
    shape = {key: value for key, value in vars(kind).items() if isinstance(value, str | int | float | tuple | list)}
    text = re.sub(r"\s*\[default: .*\]", "", option.help or "")
    return type(kind).__name__, str(shape), option.metavar, text, option.opts, option.secondary_opts, option.is_flag


def test_an_option_is_one_thing_everywhere() -> None:
    seen: dict[str, set[str]] = {}
    for _, name, option in options():
        seen.setdefault(name, set()).add(str(essence(option)))
    assert {name for name, kinds in seen.items() if len(kinds) > 1} == set(DIFFER)


def test_every_option_says_what_it_is() -> None:
    for command, name, option in options():
        assert option.help, f"{command} {name}"
        assert re.search(r"[.\]]$", option.help), f"{command} {name}: {option.help}"
        assert option.is_flag or option.metavar or isinstance(option.type, click.Choice), f"{command} {name}"


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_help_shows_every_option_once(name: str) -> None:
    command = cli.commands[name]
    assert isinstance(command, SectionedCommand)
    text = command.get_help_all(click.Context(command, info_name=name))
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert len(re.findall(rf"^  .*{parameter.opts[-1]}(?![\w-])", text, re.MULTILINE)) >= 1
    headings = re.findall(r"^(\S.*):$", text, re.MULTILINE)
    assert headings == ["Options"] or headings == [kind.value for kind in Section if kind.value in headings]
    assert len(re.findall(r"--help(?!-all)", text)) == 1


def test_many_options_stand_under_headings() -> None:
    command = cli.commands["export"]
    assert isinstance(command, SectionedCommand)
    text = command.get_help_all(click.Context(command))
    reduction = text[text.index("\nReduction:") : text.index("\nFiles to write:")]
    assert "--keep-rate" in reduction
    assert "--opset" not in reduction
