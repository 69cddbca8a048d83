"""Write docs/commands.md: every option of every command, from the declarations that the command line is made of."""

from __future__ import annotations

from pathlib import Path

import click

from tofu_export.cli.main import cli
from tofu_export.cli.sections import SectionedOption

__all__ = ["PAGE", "page"]

PAGE = Path(__file__).resolve().parent.parent / "docs" / "commands.md"

_HEAD = """# All options

What `tofu-export COMMAND --help-all` says, in tables; [options in short](options.md) says what to choose.
Written by `python .ci/commands_page.py`: change the declarations, not this page.
"""


def page() -> str:
    """The page."""
    return "\n".join([_HEAD, *(_command(name, command) for name, command in cli.commands.items())])


def _command(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=name, parent=click.Context(cli, info_name="tofu-export"))
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f"## {name}", "", command.short_help or "", "", f"    {context.command_path} {usage}", ""]
    rows = [parameter for parameter in command.params if isinstance(parameter, SectionedOption)]
    lines += ["| Option | What it says | Under |", "| --- | --- | --- |"] if rows else []
    for option in sorted(rows, key=_place):
        lines.append(f"| `{_cell(_term(option))}` | {_cell(_text(option))} | {option.section.value} |")
    return "\n".join([*lines, ""] if rows else lines)


def _term(option: SectionedOption) -> str:
    names = " / ".join([", ".join(option.opts), *option.secondary_opts])
    choices = f"[{'|'.join(option.type.choices)}]" if isinstance(option.type, click.Choice) else ""
    return f"{names} {option.metavar or choices}".rstrip()


def _text(option: SectionedOption) -> str:
    if not option.show_default:
        return option.help or ""
    default = option.default
    if option.secondary_opts:
        default = (option.opts if default else option.secondary_opts)[0].lstrip("-")
    return f"{option.help} [default: {default}]"


def _place(option: SectionedOption) -> int:
    return list(type(option.section)).index(option.section)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
