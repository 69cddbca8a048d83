"""Help in sections: a command with many options lists them under headings, each with what belongs together."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import click

__all__ = ["Section", "SectionedCommand", "command", "option"]

_FEW = 12
"""Up to so many options stand in one list."""

_WIDTH = 30
"""Of the column of options; longer ones have their text in the next line, as click does it."""


class Section(Enum):
    """Headings, in the order in which help shows them."""

    MODEL = "Model and input"
    REDUCTION = "Reduction"
    FILES = "Files to write"
    IMAGES = "Images"
    ENGINE = "Engines"
    CHECK = "Checks"
    TIMING = "Timing"
    BACKEND = "What runs the files"
    OUTPUT = "Results"


class SectionedOption(click.Option):
    """An option that knows the section of the help that it belongs to."""

    def __init__(self, *arguments: Any, section: Section, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.section = section


class SectionedCommand(click.Command):
    """A command whose options are shown by section, if there are many; `--help` is in the last one."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options."""
        rows: dict[Section, list[tuple[str, str]]] = {section: [] for section in Section}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                rows[getattr(parameter, "section", Section.OUTPUT)].append(record)
        terms = [term for part in rows.values() for term, _ in part]
        width = min(_WIDTH, max(map(len, terms)))
        shown = {key.value: part for key, part in rows.items() if part}
        if len(terms) <= _FEW:
            shown = {"Options": [row for part in shown.values() for row in part]}
        for heading, part in shown.items():
            with formatter.section(heading):  # padded, so that texts begin in one column
                formatter.write_dl([(term.ljust(width), text) for term, text in part])


def command(name: str, *, short_help: str) -> Callable[[Callable[..., Any]], SectionedCommand]:
    """A command of `tofu-export`, with its line in the list of commands."""
    return click.command(name, cls=SectionedCommand, short_help=short_help)


def option(section: Section, *names: str, **settings: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`click.option`, in a section of the help."""
    return click.option(*names, cls=SectionedOption, section=section, **settings)
