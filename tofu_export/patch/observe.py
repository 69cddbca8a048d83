"""A window on the decisions of a running patched model: record them, or replace them.

Verification records what the eager model decides, and replays another runtime's decisions in it so that arithmetic
can be compared apart from decisions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from tofu_export.patch.matching import Matching, Scores

__all__ = ["Observer", "current_observer", "observe"]


class Observer(Protocol):
    """Called once per reducing layer and forward pass."""

    def decide(self, layer: int, scores: Scores, proposed: Matching) -> Matching:
        """Return the matching to use in `layer`, given what it is decided by and what the model would do."""
        ...


_OBSERVER: ContextVar[Observer | None] = ContextVar("tofu_export_observer", default=None)


def current_observer() -> Observer | None:
    """The observer in force, if any."""
    return _OBSERVER.get()


@contextmanager
def observe(observer: Observer) -> Iterator[None]:
    """Let `observer` see and settle every decision of patched models inside the block."""
    token = _OBSERVER.set(observer)
    try:
        yield
    finally:
        _OBSERVER.reset(token)
