"""Run the command line inside the test process."""

from __future__ import annotations

import signal
import sys
from unittest.mock import patch

from tofu_export.cli.main import main


def run(*arguments: str) -> int:
    """The exit code of `tofu-export ARGUMENTS`; signals mean afterwards what they meant before."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with patch.object(sys, "argv", ["tofu-export", *arguments]):
        try:
            main()
        except SystemExit as ending:
            return int(ending.code or 0)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
