"""Messages of an interrupted command: what is kept, and how to continue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tofu_export.cli.start import KEPT

__all__ = ["clear", "if_stopped", "last_words"]

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


def last_words() -> str:
    """Return the advice of the innermost interrupted context, or what holds for any command."""
    return _advice[-1]() if _advice else KEPT


def clear() -> None:
    """Forget the advice of earlier commands in this process."""
    _advice.clear()
