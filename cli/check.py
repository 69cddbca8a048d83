"""`tofu-export check`: will this engine load here, and if not, why."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tofu_export.cli.sections import command
from tofu_export.cli.shared_options import json_option, quiet_option

__all__ = ["check_command"]

SCHEMA_VERSION = 1


@command("check", short_help="Say whether an engine will load here, and why not.")
@click.argument("engine", metavar="ENGINE", type=click.Path(path_type=Path))
@json_option()
@quiet_option("Only the exit code.")
def check_command(engine: Path, as_json: bool, quiet: bool) -> None:
    """Hold an engine against the .json beside it and against this machine, before the runtime does.

    Exit code 0: nothing speaks against loading it. 7: it will not load (changed, other version, other GPU), or nothing
    says that it will. 5: this machine lacks the runtime or a GPU. 2: no such file.
    """
    from tofu_export.engines.describing.check import check_engine

    found = check_engine(engine)
    if as_json:
        click.echo(json.dumps({"schema_version": SCHEMA_VERSION, **found.to_dict()}, indent=2))
    if not quiet:
        for entry in found.verdicts:
            click.echo(f"{entry.answer.value:<8} {entry.question:<8} {entry.reason}", err=True)
        click.echo(found.summary, err=True)
    if not found.loads:
        raise SystemExit(int(found.worst.exit_code))
