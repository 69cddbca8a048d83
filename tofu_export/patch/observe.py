"""Observe the decisions of a running patched model: record them, or replace them.

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
    """Observer that is called once per reducing layer and forward pass."""

    def decide(self, layer: int, scores: Scores, proposed: Matching) -> Matching:
        """Return the matching to use in `layer`, given its scores and the matching that the model proposes."""
        ...


_OBSERVER: ContextVar[Observer | None] = ContextVar("tofu_export_observer", default=None)


def current_observer() -> Observer | None:
    """Return the active observer, if any."""
    return _OBSERVER.get()


@contextmanager
def observe(observer: Observer) -> Iterator[None]:
    """Let an observer see and decide every matching of patched models inside the context."""
    token = _OBSERVER.set(observer)
    try:
        yield
    finally:
        _OBSERVER.reset(token)
