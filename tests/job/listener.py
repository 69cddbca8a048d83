"""A listener for jobs."""

from __future__ import annotations


class Heard:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def step(self, text: str) -> None:
        self.texts.append(text)

    tick = done = step
