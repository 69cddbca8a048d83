"""Help in sections: a command with many options lists them under headings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from tofu_export.options.declaration import Section

__all__ = ["SectionedCommand", "SectionedOption"]

_FEW = 12
"""Largest number of options shown in one list."""

_MANY = 14
"""Number of options above which `--help` shows only the everyday ones, and `--help-all` all of them."""

_WIDTH = 30
"""Width of the column of options; longer ones have their text in the next line, as in click."""


class SectionedOption(click.Option):
    """Option with its section of the help, and whether `--help` shows it among many."""

    def __init__(self, *arguments: Any, section: Section, everyday: bool = False, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.section = section
        self.everyday = everyday


class SectionedCommand(click.Command):
    """Command whose options are shown by section, if there are many; the ones for help are in the last section."""

    body: Callable[..., Any] | None = None
    """Function that does the work."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return all parameters, `--help-all` included if there are many."""
        found = super().get_params(ctx)
        return [*found, _help_all()] if self._many else found

    def get_help_all(self, ctx: click.Context) -> str:
        """Return the help with all options."""
        ctx.meta[_ALL] = True
        return self.get_help(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options: only the everyday ones, if there are many and not all are asked for."""
        few = self._many and not ctx.meta.get(_ALL)
        rows: dict[Section, list[tuple[str, str]]] = {section: [] for section in Section}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None and (not few or getattr(parameter, "everyday", True)):
                rows[getattr(parameter, "section", Section.OUTPUT)].append(record)
        terms = [term for part in rows.values() for term, _ in part]
        width = min(_WIDTH, max(map(len, terms)))
        shown = {key.value: part for key, part in rows.items() if part}
        if len(terms) <= _FEW:
            shown = {"Options": [row for part in shown.values() for row in part]}
        for heading, part in shown.items():
            with formatter.section(heading):  # padded, so that texts align
                formatter.write_dl([(term.ljust(width), text) for term, text in part])
        if few:
            formatter.write_paragraph()
            formatter.write_text(f"All options: {ctx.command_path} --help-all")

    @property
    def _many(self) -> bool:
        options = [parameter for parameter in self.params if isinstance(parameter, SectionedOption)]
        return len(options) > _MANY and not all(option.everyday for option in options)


_ALL = "tofu_export.help_all"


def _help_all() -> click.Option:
    def show(ctx: click.Context, _parameter: click.Parameter, asked: bool) -> None:
        if asked and not ctx.resilient_parsing:
            assert isinstance(ctx.command, SectionedCommand)
            click.echo(ctx.command.get_help_all(ctx), color=ctx.color)
            ctx.exit()

    return click.Option(
        ["--help-all"], is_flag=True, is_eager=True, expose_value=False, callback=show,
        help="Show all options and exit.",
    )  # fmt: skip
