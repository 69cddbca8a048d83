"""`tofu-export check`: check whether an engine will load here, and if not, why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tofu_export.cli.command import SCHEMA_VERSION, Run, command
from tofu_export.errors import ExitCode
from tofu_export.options.declaration import positional

__all__ = ["check_command"]


@dataclass(frozen=True)
class CheckWork:
    """Options of a check."""

    engine: Path = positional(metavar="ENGINE")


@command("check", short_help="Say whether an engine will load here, and why not.", quiet="Only the exit code.")
def check_command(work: CheckWork, run: Run) -> ExitCode | None:
    """Hold an engine against the .json beside it and against this machine, before the runtime does.

    Exit code 0: nothing speaks against loading it. 7: it will not load (changed, other version, other GPU), the ONNX
    file beside it is another one, or nothing says that it will load. 5: this machine lacks the runtime or a GPU. 2: no
    such file.
    """
    from tofu_export.engines.describing.check import check_engine

    found = check_engine(work.engine)
    run.document(lambda: {"schema_version": SCHEMA_VERSION, **found.to_dict()})
    for entry in found.verdicts:
        run.say(f"{entry.answer.value:<8} {entry.question:<8} {entry.reason}")
    run.say(found.summary)
    return None if found.loads else ExitCode(found.worst.exit_code)
