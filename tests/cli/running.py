"""Run the command line inside the test process."""

from __future__ import annotations

import sys
from unittest.mock import patch

from tofu_export.cli.main import main


def run(*arguments: str) -> int:
    """The exit code of `tofu-export ARGUMENTS`."""
    with patch.object(sys, "argv", ["tofu-export", *arguments]):
        try:
            main()
        except SystemExit as ending:
            return int(ending.code or 0)
