"""Common parts of every command: options from dataclasses, logging, console, JSON documents, exit codes.

The body of a command takes the requests that its options describe, and a `Run`; it returns an exit code, or None for 0.
"""

from __future__ import annotations

import inspect
import json
import logging
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_type_hints

import click

from tofu_export.cli.derive import check_outputs, make, parameters_of
from tofu_export.cli.parameters import command_line
from tofu_export.cli.sections import SectionedCommand, SectionedOption
from tofu_export.cli.stopping import DRY, if_stopped
from tofu_export.options.declaration import Section

if TYPE_CHECKING:
    from rich.console import Console

    from tofu_export.cli.console import ConsoleListener

__all__ = ["Body", "Run", "command"]

Body = Callable[..., "int | None"]

SCHEMA_VERSION = 1
"""Version of the documents that `Run.envelope` makes."""

_WIDTH = 200
"""Width of tables off a terminal, which rich would limit to 80 columns."""


@dataclass(frozen=True)
class Run:
    """Output of a command, and its options that all commands share.

    Attributes:
        as_json: print only one JSON document on stdout.
        dry_run: show what would be made, and make nothing.
        quiet: print only errors.
        verbose: print more.
    """

    as_json: bool = False
    dry_run: bool = False
    quiet: bool = False
    verbose: bool = False

    @property
    def command(self) -> str:
        """Command line as it was typed, for reports."""
        return command_line()

    def console(self) -> Console:
        """Return the console for tables, on stderr."""
        from rich.console import Console

        return Console(stderr=True, width=None if sys.stderr.isatty() else _WIDTH)

    def listening(self, first: str = "", console: Console | None = None) -> AbstractContextManager[ConsoleListener]:
        """Return a listener that shows steps unless the command is quiet; `first` begins at once."""
        from tofu_export.cli.console import listening

        return listening(console, quiet=self.quiet, first=first)

    def say(self, text: str) -> None:
        """Print a text to stderr, unless the command is quiet."""
        if not self.quiet:
            click.echo(text, err=True)

    def document(self, content: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> None:
        """Print the JSON document, if asked for; a function is called only then."""
        if self.as_json:
            click.echo(json.dumps(content() if callable(content) else content, indent=2, allow_nan=False))

    def envelope(self, **content: object) -> dict[str, object]:
        """Return a document that also records its origin."""
        from tofu_export.system import environment
        from tofu_export.system.typed_json import to_object

        about = to_object(environment.collect())
        return {"schema_version": SCHEMA_VERSION, "command": self.command, "environment": about, **content}


def command(
    name: str, *, short_help: str, as_json: bool = True, dry_run: bool = False, quiet: str = "", verbose: str = ""
) -> Callable[[Body], SectionedCommand]:
    """Make a command of `tofu-export` from a function whose annotated parameters declare its options.

    Args:
        name: name of the command, as typed.
        short_help: its line in the list of commands.
        as_json: the command has `--json`.
        dry_run: the command has `--dry-run`.
        quiet: effect of `--quiet`; empty for no such option.
        verbose: what `--verbose` shows in addition; empty for no such option.
    """
    talk = [
        _flag("--json", "as_json", help="Print one JSON document on stdout, and nothing else there.", given=as_json),
        _flag("--dry-run", help="Show what would be made, and make nothing.", given=dry_run),
        _flag("-q", "--quiet", help=quiet, given=bool(quiet)),
        _flag("-v", "--verbose", help=f"Also {verbose}.", given=bool(verbose)),
    ]

    def decorate(body: Body) -> SectionedCommand:
        hints = get_type_hints(body)
        kinds = {parameter: hints[parameter] for parameter in inspect.signature(body).parameters}
        requests = {parameter: kind for parameter, kind in kinds.items() if kind is not Run}
        parameters = [found for kind in requests.values() for found in parameters_of(kind)]

        def run(**values: Any) -> None:
            talking = Run(**{flag.name: values[flag.name] for flag in talk if flag is not None and flag.name})
            level = logging.INFO if talking.verbose else logging.ERROR
            logging.basicConfig(level=level, format="%(name)s: %(message)s")
            context = click.get_current_context()
            default = click.core.ParameterSource.DEFAULT
            given = {key: value for key, value in values.items() if context.get_parameter_source(key) is not default}
            with if_stopped(lambda: DRY) if talking.dry_run else nullcontext():
                made = {parameter: make(kind, given) for parameter, kind in requests.items()}
                for request in made.values():
                    check_outputs(request)
                talks = {parameter: talking for parameter, kind in kinds.items() if kind is Run}
                code = body(**made, **talks)
            if code:
                raise SystemExit(int(code))

        flags = [flag for flag in talk if flag is not None]
        made = SectionedCommand(
            name, params=[*parameters, *flags], callback=run, help=inspect.getdoc(body), short_help=short_help
        )
        made.body = body
        return made

    return decorate


def _flag(*names: str, help: str, given: bool) -> SectionedOption | None:
    return SectionedOption(names, is_flag=True, help=help, section=Section.OUTPUT, everyday=True) if given else None
