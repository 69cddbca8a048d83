"""Warm-up and measurement rules of a benchmark, and its progress reports."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from tofu_export.errors import OptionError

__all__ = ["CAP_FACTOR", "DEFAULT_RULES", "Progress", "Rules", "Teller"]

CAP_FACTOR = 2.0
"""Limit on the time of a batch size, as a multiple of `min_seconds` per contender, even if a much faster contender has
not yet run for `min_seconds`."""

_PROGRESS_EVERY_NS = 100_000_000


@dataclass(frozen=True)
class Progress:
    """Progress of a benchmark; reported about ten times a second, never during a timed call.

    Attributes:
        batch: current batch size.
        phase: warming up or measuring.
        iterations: rounds measured so far at this batch size.
        fraction: estimated share of this batch size that is done, 0 to 1.
    """

    batch: int
    phase: Literal["warm-up", "measure"]
    iterations: int
    fraction: float


@dataclass(frozen=True)
class Rules:
    """Rules on when warming up and measuring end.

    Attributes:
        warmup_ms: time that each contender runs before it is timed; at least one run.
        min_seconds: shortest measured time of each contender.
        min_iterations: least number of samples.
    """

    warmup_ms: float = 200
    min_seconds: float = 3.0
    min_iterations: int = 10

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_ms < math.inf:
            raise OptionError(f"warmup_ms is {self.warmup_ms!r}, expected a number of milliseconds >= 0")
        if not 0 <= self.min_seconds < math.inf:
            raise OptionError(f"min_seconds is {self.min_seconds!r}, expected a number of seconds >= 0")
        if self.min_iterations < 1:
            raise OptionError(f"min_iterations is {self.min_iterations!r}, expected a whole number >= 1")

    def done(self, iterations: int, spent_ns: Sequence[int]) -> float:
        """Return the share of the work that is done; 1 or more ends it."""
        capped = _ratio(sum(spent_ns) / 1e9, CAP_FACTOR * self.min_seconds * len(spent_ns))
        in_time = max(_ratio(min(spent_ns) / 1e9, self.min_seconds), capped)
        return min(iterations / self.min_iterations, in_time)


DEFAULT_RULES = Rules()


class Teller:
    """Reporter that passes progress on, about ten times a second."""

    def __init__(self, batch: int, on_progress: Callable[[Progress], None] | None, clock: Callable[[], int]) -> None:
        self._batch, self._on_progress, self._clock = batch, on_progress, clock
        self._next_ns: int | None = None

    def tell(self, phase: Literal["warm-up", "measure"], iterations: int, fraction: float) -> None:
        if self._on_progress is None:
            return
        now = self._clock()
        if self._next_ns is None or now >= self._next_ns or fraction >= 1:
            self._next_ns = now + _PROGRESS_EVERY_NS
            self._on_progress(Progress(self._batch, phase, iterations, min(fraction, 1.0)))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.inf
