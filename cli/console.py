"""Progress of a job on stderr: one line per finished step, a spinner in between.

Off a terminal, where nothing spins, a step that takes long prints its description in a separate line.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status

__all__ = ["ConsoleListener", "LongStep", "listening", "say"]

_LONG_S = 10.0
"""Seconds after which a step prints its description."""


@contextmanager
def listening(console: Console | None = None, *, quiet: bool, first: str = "") -> Iterator[ConsoleListener]:
    """Provide a listener that is closed at the end, whatever happens.

    Args:
        console: console to print to; None for stderr.
        quiet: print nothing.
        first: the step that begins at once, if any.
    """
    listener = ConsoleListener(Console(stderr=True) if console is None else console, quiet=quiet)
    try:
        if first:
            listener.step(first)
        yield listener
    finally:
        listener.close()


class LongStep:
    """Prints a step once it has taken long, off a terminal; nothing if `quiet`."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._silent = quiet or console.is_terminal
        self._timer: threading.Timer | None = None

    def begin(self, text: str) -> None:
        """Begin a step, in place of the one before."""
        self.end()
        if not self._silent:
            self._timer = threading.Timer(_LONG_S, say, [self._console, f"[   ...  ] {text} ..."])
            self._timer.daemon = True
            self._timer.start()

    def end(self) -> None:
        """End the step, which is not printed any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def say(console: Console, text: str) -> None:
    """Print a text as it is."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


class ConsoleListener:
    """Listener that prints the steps of a job on a console; silent if `quiet`."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._status: Status | None = None
        self._text = ""
        self._start = 0.0
        self._long = LongStep(console, quiet=quiet)

    def step(self, text: str) -> None:
        """Begin a step."""
        self._text, self._start = text, time.perf_counter()
        self._long.begin(text)
        if self._quiet or not self._console.is_terminal:
            return
        if self._status is None:
            self._status = self._console.status("", spinner="dots")
            self._status.start()
        self._status.update(f"{text} ...")

    def tick(self, text: str) -> None:
        """Update the current step."""
        if self._status is not None:
            self._status.update(f"{self._text} ... {text}")

    def done(self, text: str) -> None:
        """End the current step."""
        self._long.end()
        if self._quiet:
            return
        seconds = time.perf_counter() - self._start
        body = f"\n{text}\n" if "\n" in text else text
        say(self._console, f"[{seconds:6.1f} s] {self._text}: {body}")

    def close(self) -> None:
        """Remove the spinner."""
        self._long.end()
        if self._status is not None:
            self._status.stop()
            self._status = None
