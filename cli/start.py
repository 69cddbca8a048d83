"""Entry point of the command line: answers Ctrl-C with one line from here on, also while other modules load.

Nothing is imported here that the interpreter has not loaded by itself, `signal` with its enumerations included: that
alone would take longer than everything else here. While modules load there is nothing to clean up, and an interrupt
raised inside an import may appear as an error of another kind: so the process ends at once.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what `signal` is made of
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

__all__ = ["ENDED", "INTERRUPTED", "KEPT", "NOT_BEGUN", "TERMINATED", "Terminated", "main"]

INTERRUPTED = 130
TERMINATED = 143
ENDED = {INTERRUPTED: "interrupted", TERMINATED: "terminated"}
"""Words for the end of a process by a signal, by exit code."""

KEPT = "a file under its final name is complete"
"""Statement that holds whenever a command ends."""

NOT_BEGUN = "nothing was begun"
"""Statement that holds while the command line loads."""

_CODES = {_signal.SIGINT: INTERRUPTED, _signal.SIGTERM: TERMINATED}


class Terminated(BaseException):  # not an error: no error handler may catch it
    """Request to end this process (SIGTERM)."""


def main() -> NoReturn:
    """Load the command line, run it, and exit."""
    for number in _CODES:
        _signal.signal(number, _leave_at_start)
    from tofu_export.cli.main import main as run

    try:
        run()
    except KeyboardInterrupt:  # again, while the first one was being handled
        _leave(_signal.SIGINT, KEPT)
    except Terminated:
        _leave(_signal.SIGTERM, KEPT)


def _leave_at_start(number: int, _frame: FrameType | None) -> NoReturn:
    """End the process before a command runs."""
    _leave(number, NOT_BEGUN)


def _leave(number: int, kept: str) -> NoReturn:
    """Print the reason and end the process, without a way for anything to stop it."""
    code = _CODES[number]
    try:
        os.write(2, f"tofu-export: error: {ENDED[code]}; {kept}\n".encode())
    finally:
        os._exit(code)
