"""Messages of an interrupted command: what is kept, and how to continue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tofu_export.cli.start import KEPT

__all__ = ["DRY", "all_or_nothing", "clear", "if_stopped", "last_words"]

DRY = "a dry run makes nothing"
"""Advice of a dry run."""

_advice: list[Callable[[], str]] = []


@contextmanager
def if_stopped(advice: Callable[[], str]) -> Iterator[None]:
    """Inside the context, answer a signal that ends the program with `advice`.

    Args:
        advice: returns what is kept and how to continue; called after the context has cleaned up.
    """
    _advice.append(advice)
    yield
    _advice.remove(advice)  # not reached by a block that was stopped, whose advice is still to be given


@contextmanager
def all_or_nothing(folder: Path) -> Iterator[None]:
    """Inside the context, answer a signal with whether any of the files, which appear together, is in `folder` yet."""
    before = _finished(folder)

    def advice() -> str:
        if _finished(folder) != before:
            return KEPT
        return f"nothing was written to {folder}: all files of a job appear together at its end"

    with if_stopped(advice):
        yield


def _finished(folder: Path) -> dict[str, int]:
    """Return the inodes of the files in a folder, by name; those of unfinished files are hidden."""
    if not folder.is_dir():
        return {}
    return {path.name: path.stat().st_ino for path in folder.iterdir() if not path.name.startswith(".")}


def last_words() -> str:
    """Return the advice of the innermost interrupted context, or what holds for any command."""
    return _advice[-1]() if _advice else KEPT


def clear() -> None:
    """Forget the advice of earlier commands in this process."""
    _advice.clear()
