"""What a benchmark, or a record of one, says of a contender: times, throughput, and what a reader must know of them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tofu_export.errors import OptionError
from tofu_export.system.typed_json import JsonObject, from_plain, to_object, to_plain

if TYPE_CHECKING:
    from tofu_export.engines.running.gpu_times import QueryTimes

__all__ = ["LatencyMs", "Measurement", "percentile"]


@dataclass(frozen=True)
class LatencyMs:
    """Distribution of one query's latency, in milliseconds; percentiles by nearest rank, as trtexec takes them."""

    min: float
    max: float
    mean: float
    median: float
    p90: float
    p95: float
    p99: float

    @classmethod
    def of(cls, samples_ms: Sequence[float]) -> LatencyMs:
        """The distribution of samples in milliseconds, of which there is one at least."""
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
class Measurement:
    """One contender at one batch size: an entry of report.json's `benchmark`.

    Attributes:
        artifact: name of the contender.
        backend: what ran it.
        device: hardware that ran it.
        batch: images per query.
        throughput_qps: queries per second of its own wall time.
        images_per_sec: the same times the batch.
        latency_ms: distribution over all queries: what the host waits for one, or, where the GPU's times were taken,
            the sum of copies and kernels as trtexec has it.
        enqueue_ms: median host time to enqueue a query; None where it was not taken, as on a CPU.
        h2d_ms: median time of the copy to the device; None likewise, 0 without transfers.
        gpu_compute_ms: median time of the kernels; None likewise.
        d2h_ms: median time of the copy from the device; None likewise.
        walltime_s: host time of all iterations. The other contenders' turns in between do not count.
        speedup_vs_full: latency of the baseline divided by this one's, median over the rounds; None without a baseline.
        speedup_iqr: first and third quartile of that ratio over the rounds; None without a baseline.
        iterations: number of queries.
        cv_percent: standard deviation of the latency (of the kernels' time where it was taken) in percent of its mean;
            None where a log does not say.
        notes: what a reader of the numbers must know.
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
        latencies_ms: Sequence[float],
        *,
        count: int,
        walltime_s: float,
        on_gpu: QueryTimes | None,
        cv_percent: float,
        notes: tuple[str, ...],
    ) -> Measurement:
        """What samples of queries say, without a speed-up.

        Args:
            artifact: name of the contender.
            backend: what ran it.
            device: hardware that ran it.
            batch: images per query.
            latencies_ms: the samples.
            count: queries in all; streams answer several for one sample.
            walltime_s: host time of all.
            on_gpu: medians of the GPU's times; None where they were not taken.
            cv_percent: of what was taken as the time.
            notes: what a reader must know.
        """
        return cls(
            artifact=artifact,
            backend=backend,
            device=device,
            batch=batch,
            throughput_qps=count / walltime_s,
            images_per_sec=count * batch / walltime_s,
            latency_ms=LatencyMs.of(latencies_ms),
            enqueue_ms=None if on_gpu is None else on_gpu.enqueue_ms,
            h2d_ms=None if on_gpu is None else on_gpu.h2d_ms,
            gpu_compute_ms=None if on_gpu is None else on_gpu.compute_ms,
            d2h_ms=None if on_gpu is None else on_gpu.d2h_ms,
            walltime_s=walltime_s,
            speedup_vs_full=None,
            speedup_iqr=None,
            iterations=count,
            cv_percent=cv_percent,
            notes=notes,
        )

    def rounded(self) -> Measurement:
        """The same with all times and ratios to six decimals (a nanosecond, in milliseconds), as documents have it."""
        return from_plain(Measurement, _rounded(to_plain(self)))

    def to_dict(self) -> JsonObject:
        """The measurement, rounded, as JSON values."""
        return to_object(self.rounded())


def percentile(ascending: Sequence[float], percent: int) -> float:
    """The smallest value that `percent` of 100 values do not exceed (nearest rank, no interpolation).

    Raises:
        OptionError: there are no values, or percent is not in 0..100.
    """
    if not ascending or not 0 <= percent <= 100:
        raise OptionError(f"percentile {percent} of {len(ascending)} values: expected 0..100 of at least one value")
    return ascending[max(-(-percent * len(ascending) // 100) - 1, 0)]  # rank = percent * count / 100, rounded up


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 6) if isinstance(value, float) else value
