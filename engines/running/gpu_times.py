"""Times of queries on a GPU under trtexec's names, options for timing, and warnings."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tofu_export.errors import OptionError
from tofu_export.options.declaration import Section, opt

__all__ = [
    "ENQUEUE_BOUND",
    "UNSTABLE_CV_PERCENT",
    "GpuOptions",
    "QueryTimes",
    "bound_notes",
    "coefficient_of_variation",
]

ENQUEUE_BOUND = 0.8
"""Share of the GPU's time above which enqueueing is reported as the bottleneck. Source: logs of trtexec 8 to 10, which
warn at 0.84 and above."""

UNSTABLE_CV_PERCENT = 2.5
"""Coefficient of variation above which a latency is called unstable. trtexec says so above 1 %, but of GPU compute
time alone; a CPU shared with an operating system is never that stable."""

_MOST_STREAMS = 64


@dataclass(frozen=True)
class GpuOptions:
    """Options for timing engines. The defaults are those of trtexec 10; trtexec 11 inverts the two flags.

    Attributes:
        cuda_graph: capture the kernels of a query once, and launch them together.
        transfers: inputs come from the host's memory and outputs go back to it in every query; False: both stay on the
            GPU, and nothing is copied while timing.
        streams: number of queries in flight.

    Raises:
        OptionError: streams is not a whole number from 1 on.
    """

    cuda_graph: bool = opt(
        False, "Launch the kernels of a plan together. trtexec 11 does, 10 does not.", Section.BACKEND,
        flags=("--cuda-graph/--no-cuda-graph",),
    )  # fmt: skip
    transfers: bool = opt(
        True, "Copy inputs to the GPU and outputs back in each query. trtexec 10 does, 11 does not.", Section.BACKEND
    )
    streams: int = opt(1, "Queries of a plan that are on their way at once.", Section.BACKEND, metavar="N", minimum=1)

    def __post_init__(self) -> None:
        if not 1 <= self.streams <= _MOST_STREAMS:
            raise OptionError(f"--streams is {self.streams}, expected a whole number from 1 to {_MOST_STREAMS}")

    def __str__(self) -> str:
        graph = "CUDA graph" if self.cuda_graph else "no CUDA graph"
        transfers = "transfers included" if self.transfers else "no transfers"
        return f"{graph}, {transfers}, {self.streams} stream{'s' * (self.streams > 1)}"


class QueryTimes(NamedTuple):
    """Times of one query, in milliseconds, as trtexec defines them.

    Attributes:
        enqueue_ms: the host's time to enqueue the kernels, on its clock.
        h2d_ms: copy of the inputs to the device, on the GPU's clock, as are those below; 0 without transfers.
        compute_ms: time of the kernels.
        d2h_ms: copy of the outputs to the host.
    """

    enqueue_ms: float
    h2d_ms: float
    compute_ms: float
    d2h_ms: float

    @classmethod
    def medians(cls, queries: Sequence[QueryTimes]) -> QueryTimes:
        """Return the median of each time, of at least one query."""
        return cls(*map(statistics.median, zip(*queries, strict=True)))

    @property
    def latency_ms(self) -> float:
        """Time of copies and kernels: trtexec's latency."""
        return self.h2d_ms + self.compute_ms + self.d2h_ms


def coefficient_of_variation(values: Sequence[float]) -> float:
    """Return the standard deviation in percent of the mean; 0 if all are 0, as for kernels faster than the clock."""
    mean = statistics.fmean(values)
    return 100 * statistics.pstdev(values) / mean if mean else 0.0


def bound_notes(times: QueryTimes, *, remedy: str) -> tuple[str, ...]:
    """Return notes on what limits the GPU, as trtexec warns.

    Args:
        times: median times.
        remedy: advice for slow enqueueing.
    """
    notes = []
    if times.enqueue_ms > ENQUEUE_BOUND * times.compute_ms:
        notes.append(
            f"the host takes {times.enqueue_ms:.3g} ms to enqueue what the GPU computes in {times.compute_ms:.3g} ms, "
            f"so the GPU may wait: {remedy}"
        )
    for what, value in (("to the device", times.h2d_ms), ("from the device", times.d2h_ms)):
        if value > times.compute_ms:
            notes.append(
                f"copies {what} take {value:.3g} ms, more than the {times.compute_ms:.3g} ms of the kernels: "
                "throughput may be bound by them"
            )
    return tuple(notes)
