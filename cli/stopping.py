"""What a command says when somebody stops it: what is kept, and how to go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tofu_export.cli.start import KEPT

__all__ = ["clear", "if_stopped", "last_words"]

_advice: list[Callable[[], str]] = []


@contextmanager
def if_stopped(advice: Callable[[], str]) -> Iterator[None]:
    """While this block runs, a signal that ends the program is answered with `advice`.

    Args:
        advice: what is kept and how to go on; asked after the block has cleared away.
    """
    _advice.append(advice)
    yield
    _advice.remove(advice)  # not reached by a block that was stopped, whose advice is still to be given


def last_words() -> str:
    """The advice of the innermost block that was stopped, or what holds for any command."""
    return _advice[-1]() if _advice else KEPT


def clear() -> None:
    """Forget what earlier commands in this process had to say."""
    _advice.clear()
