"""Run `tofu-export` as a user does, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

__all__ = ["tofu_export"]


def tofu_export(*arguments: str) -> tuple[str | None, str]:
    """The message of a command that failed, None for one that did not; and what it printed."""
    command = [sys.executable, "-m", "tofu_export.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stderr.strip().splitlines()
    return (None if done.returncode == 0 else (lines or [f"exit code {done.returncode}"])[-1]), done.stdout
