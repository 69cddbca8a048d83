"""Progress of a job: what a listener is told, and the wall time of each step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["Listener", "Progress"]


class Listener(Protocol):
    """Receives the progress of a job."""

    def step(self, text: str) -> None:
        """A step begins."""
        ...

    def tick(self, text: str) -> None:
        """The current step is still running; `text` says where it stands."""
        ...

    def done(self, text: str) -> None:
        """The current step has succeeded."""
        ...


class Progress:
    """Reports steps to a listener and measures them.

    Args:
        listener: receives the steps.

    Attributes:
        seconds: wall time of each step by name, rounded to 10 ms.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str, text: str) -> Iterator[None]:
        """Announce `text`, and time the block as `name`."""
        self._listener.step(text)
        with self.timed(name):
            yield

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Time the block as `name`, also if it fails."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(time.perf_counter() - start, 2)

    def tick(self, text: str) -> None:
        """Say where the current step stands."""
        self._listener.tick(text)

    def done(self, text: str) -> None:
        """Say how the last step ended."""
        self._listener.done(text)

    def note(self, name: str, text: str) -> None:
        """Say something that takes no time, as a step of its own."""
        self._listener.step(name)
        self._listener.done(text)
