"""The first module of the command line: Ctrl-C is answered in one line from here on, also while all others load.

Nothing but the interpreter is imported here. While modules load there is nothing to clear away, and an interrupt that
is raised inside an import may come out of it as an error of another kind: so the process ends at once.
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn

__all__ = ["ENDED", "INTERRUPTED", "TERMINATED", "Terminated", "main"]

INTERRUPTED = 130
TERMINATED = 143
ENDED = {
    INTERRUPTED: "interrupted; a file under its final name is complete",
    TERMINATED: "terminated; a file under its final name is complete",
}
"""What is said of a process that a signal ended, by its exit code."""


class Terminated(BaseException):  # no error, and nothing that handles errors may catch it
    """Somebody asked this process to end (SIGTERM)."""


_CODES = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}


def main() -> NoReturn:
    """Load the command line, run it, and exit."""
    for number in _CODES:
        signal.signal(number, _leave)
    from tofu_export.cli.main import main as run

    try:
        run()
    except KeyboardInterrupt:  # again, while the first one was being answered
        _leave(signal.SIGINT, None)
    except Terminated:
        _leave(signal.SIGTERM, None)


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    """Say so and end, without a way for anything to stop it."""
    code = _CODES[signal.Signals(number)]
    try:
        os.write(2, f"tofu-export: error: {ENDED[code]}\n".encode())
    finally:
        os._exit(code)
