"""`tofu-export help`: `--help` as a command."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

import click

from tofu_export.cli.command import Run, command
from tofu_export.options.declaration import positional

__all__ = ["help_command"]


@dataclass(frozen=True)
class HelpWork:
    """Options of the help."""

    name: str | None = positional(None, metavar="[COMMAND]")


@command("help", short_help="Show the commands, or the help of one.", as_json=False)
def help_command(work: HelpWork, run: Run) -> None:
    """Show the commands, or the options of COMMAND."""
    name, above = work.name, click.get_current_context().parent
    assert above is not None  # a command of the group
    group = above.command
    assert isinstance(group, click.Group)
    if name is None:
        click.echo(above.get_help())
        return
    if name not in group.commands:
        close = get_close_matches(name, group.commands, 1)
        hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(group.commands)}"
        raise click.UsageError(f"no command {name!r}: {hint}")
    found = group.commands[name]
    click.echo(found.get_help(click.Context(found, parent=above, info_name=name)))
