"""Progress of a job: messages to a listener, and the wall time of each step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["Listener", "Progress"]


class Listener(Protocol):
    """Listener to the progress of a job."""

    def step(self, text: str) -> None:
        """Report that a step begins."""
        ...

    def tick(self, text: str) -> None:
        """Report that the current step is still running; `text` says how far it is."""
        ...

    def done(self, text: str) -> None:
        """Report that the current step has succeeded."""
        ...


class Progress:
    """Reporter of steps that measures their time.

    Args:
        listener: listener to the steps.

    Attributes:
        seconds: wall time of each step by name, rounded to 10 ms.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str, text: str) -> Iterator[None]:
        """Announce `text`, and time the context as step `name`."""
        self._listener.step(text)
        with self.timed(name):
            yield

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Time the context as `name`, also if it fails."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(time.perf_counter() - start, 2)

    def tick(self, text: str) -> None:
        """Report how far the current step is."""
        self._listener.tick(text)

    def done(self, text: str) -> None:
        """Report how the last step ended."""
        self._listener.done(text)

    def note(self, name: str, text: str) -> None:
        """Report something that takes no time, as a separate step."""
        self._listener.step(name)
        self._listener.done(text)
