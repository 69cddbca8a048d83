"""Benchmark results of a contender: times, throughput, and notes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tofu_export.errors import OptionError
from tofu_export.system.typed_json import JsonObject, from_plain, rounded_object

if TYPE_CHECKING:
    from tofu_export.engines.running.gpu_times import QueryTimes

__all__ = ["LatencyMs", "Measurement", "QuerySamples", "percentile"]


@dataclass(frozen=True)
class LatencyMs:
    """Distribution of one query's latency, in milliseconds; percentiles by nearest rank, as in trtexec."""

    min: float
    max: float
    mean: float
    median: float
    p90: float
    p95: float
    p99: float

    @classmethod
    def of(cls, samples_ms: Sequence[float]) -> LatencyMs:
        """Return the distribution of at least one sample, in milliseconds."""
        values = sorted(samples_ms)
        return cls(
            min=values[0],
            max=values[-1],
            mean=statistics.fmean(values),
            median=statistics.median(values),
            p90=percentile(values, 90),
            p95=percentile(values, 95),
            p99=percentile(values, 99),
        )


@dataclass(frozen=True)
class QuerySamples:
    """Times of queries to one contender.

    Attributes:
        latencies_ms: latency of each sample.
        count: number of queries; streams answer several for one sample.
        walltime_s: host time of all queries.
        on_gpu: medians of the GPU's times; None if not measured.
        cv_percent: coefficient of variation of the time that was used.
    """

    latencies_ms: Sequence[float]
    count: int
    walltime_s: float
    on_gpu: QueryTimes | None
    cv_percent: float


@dataclass(frozen=True)
class Measurement:
    """Measurement of one contender at one batch size: an entry of report.json's `benchmark`.

    Attributes:
        artifact: name of the contender.
        backend: backend that ran it.
        device: hardware that ran it.
        batch: images per query.
        throughput_qps: queries per second of its own wall time.
        images_per_sec: images per second: queries per second times the batch.
        latency_ms: distribution over all queries: host time per query, or, if the GPU's times were measured, the sum of
            copies and kernels as in trtexec.
        enqueue_ms: median host time to enqueue a query; None if not measured, as on a CPU.
        h2d_ms: median time of the copy to the device; None if not measured, 0 without transfers.
        gpu_compute_ms: median time of the kernels; None if not measured.
        d2h_ms: median time of the copy from the device; None if not measured.
        walltime_s: host time of all iterations, without the other contenders' turns between them.
        speedup_vs_full: latency of the baseline divided by this one's, median over the rounds; None without a baseline.
        speedup_iqr: first and third quartile of that ratio over the rounds; None without a baseline.
        iterations: number of queries.
        cv_percent: standard deviation of the latency (of the kernels' time if measured) in percent of its mean; None if
            a log does not state it.
        notes: notes for the reader of the numbers.
    """

    artifact: str
    backend: str
    device: str
    batch: int
    throughput_qps: float
    images_per_sec: float
    latency_ms: LatencyMs
    enqueue_ms: float | None
    h2d_ms: float | None
    gpu_compute_ms: float | None
    d2h_ms: float | None
    walltime_s: float
    speedup_vs_full: float | None
    speedup_iqr: tuple[float, float] | None
    iterations: int
    cv_percent: float | None
    notes: tuple[str, ...] = ()

    @classmethod
    def of_queries(
        cls,
        artifact: str,
        backend: str,
        device: str,
        batch: int,
        samples: QuerySamples,
        *,
        notes: tuple[str, ...],
    ) -> Measurement:
        """Return the measurement from samples of queries, without a speed-up.

        Args:
            artifact: name of the contender.
            backend: backend that ran it.
            device: hardware that ran it.
            batch: images per query.
            samples: times of the queries.
            notes: notes for the reader.
        """
        count, walltime_s, on_gpu = samples.count, samples.walltime_s, samples.on_gpu
        return cls(
            artifact=artifact,
            backend=backend,
            device=device,
            batch=batch,
            throughput_qps=count / walltime_s,
            images_per_sec=count * batch / walltime_s,
            latency_ms=LatencyMs.of(samples.latencies_ms),
            enqueue_ms=None if on_gpu is None else on_gpu.enqueue_ms,
            h2d_ms=None if on_gpu is None else on_gpu.h2d_ms,
            gpu_compute_ms=None if on_gpu is None else on_gpu.compute_ms,
            d2h_ms=None if on_gpu is None else on_gpu.d2h_ms,
            walltime_s=walltime_s,
            speedup_vs_full=None,
            speedup_iqr=None,
            iterations=count,
            cv_percent=samples.cv_percent,
            notes=notes,
        )

    def rounded(self) -> Measurement:
        """Return the measurement with all times and ratios rounded as in documents."""
        return from_plain(Measurement, rounded_object(self))

    def to_dict(self) -> JsonObject:
        """Return the measurement, rounded, as JSON values."""
        return rounded_object(self)


def percentile(ascending: Sequence[float], percent: int) -> float:
    """Return the smallest value that `percent` of 100 values do not exceed (nearest rank, no interpolation).

    Raises:
        OptionError: there are no values, or percent is not in 0..100.
    """
    if not ascending or not 0 <= percent <= 100:
        raise OptionError(f"percentile {percent} of {len(ascending)} values: expected 0..100 of at least one value")
    return ascending[max(-(-percent * len(ascending) // 100) - 1, 0)]  # rank = percent * count / 100, rounded up
