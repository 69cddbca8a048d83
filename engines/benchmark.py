"""Honest comparison of model files: one process, interleaved runs, ratios of paired samples.

Noise of the machine (other processes, clock frequency, heat) changes within seconds. Timing one model after the other
puts it all on one of them, so here every round runs each contender once, the first of a round changes each time,
and a speed-up comes with the spread of the ratios within the rounds.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy.typing as npt

from tofu_export.errors import OptionError

__all__ = [
    "UNSTABLE",
    "UNSTABLE_CV_PERCENT",
    "Contender",
    "Feeds",
    "LatencyMs",
    "Measurement",
    "Opener",
    "Progress",
    "Runner",
    "percentile",
    "run_benchmark",
]

Feeds = Mapping[str, npt.NDArray[Any]]

UNSTABLE_CV_PERCENT = 2.5
"""Coefficient of variation above which a latency is called unstable. trtexec says so above 1 %, but of GPU compute
time alone; a CPU shared with an operating system never is that quiet."""

UNSTABLE = "latency is unstable"
"""How the note begins that says so."""

CAP_FACTOR = 2.0
"""A batch size ends after this many times `min_seconds` per contender, even if a much faster one has not yet run for
`min_seconds` of its own."""

_PROGRESS_EVERY_NS = 100_000_000


@dataclass(frozen=True)
class Contender:
    """One file to time.

    Attributes:
        name: what tables and reports call it, unique in a benchmark.
        path: the file.
        backend: what runs it.
    """

    name: str
    path: Path
    backend: str = "ort-cpu"


class Runner(Protocol):
    """A loaded contender."""

    @property
    def device(self) -> str:
        """Name of the hardware that runs it."""

    def bind(self, feeds: Feeds) -> Callable[[], object]:
        """A call that runs it on these feeds and returns when the result is there."""


Opener = Callable[[Contender, "int | None"], Runner]
"""Loads a contender, with a number of threads or the default."""


@dataclass(frozen=True)
class Progress:
    """Where a benchmark stands; told about ten times a second, never during a timed call.

    Attributes:
        batch: batch size at work.
        phase: warming up or measuring.
        iterations: rounds measured so far at this batch size.
        fraction: estimated share of this batch size that is done, 0 to 1.
    """

    batch: int
    phase: Literal["warm-up", "measure"]
    iterations: int
    fraction: float


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
    def of(cls, samples_ns: Sequence[int]) -> LatencyMs:
        """The distribution of samples in nanoseconds."""
        values = sorted(sample / 1e6 for sample in samples_ns)
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
        latency_ms: distribution over all iterations.
        enqueue_ms: median host time to enqueue a query; None on a CPU.
        h2d_ms: median time of the copy to the device; None on a CPU.
        gpu_compute_ms: median time of the kernels; None on a CPU.
        d2h_ms: median time of the copy from the device; None on a CPU.
        walltime_s: sum of the iterations. The other contenders' turns in between do not count.
        speedup_vs_full: latency of the baseline divided by this one's, median over the rounds; None without a baseline.
        speedup_iqr: first and third quartile of that ratio over the rounds; None without a baseline.
        iterations: number of samples.
        cv_percent: standard deviation of the latency in percent of its mean; None where a log does not say.
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

    def to_dict(self) -> dict[str, Any]:
        """The measurement as JSON values, floats rounded to six decimals (a nanosecond, in milliseconds)."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def percentile(ascending: Sequence[float], percent: int) -> float:
    """The smallest value that `percent` of 100 values do not exceed (nearest rank, no interpolation).

    Raises:
        OptionError: there are no values, or percent is not in 0..100.
    """
    if not ascending or not 0 <= percent <= 100:
        raise OptionError(f"percentile {percent} of {len(ascending)} values: expected 0..100 of at least one value")
    return ascending[max(-(-percent * len(ascending) // 100) - 1, 0)]  # rank = percent * count / 100, rounded up


def run_benchmark(
    contenders: Sequence[Contender],
    *,
    batches: Sequence[int],
    make_feeds: Callable[[int], Feeds] | Mapping[str, Callable[[int], Feeds]],
    open_runner: Opener,
    warmup_ms: float = 200,
    min_seconds: float = 3.0,
    min_iterations: int = 10,
    threads: int | None = None,
    baseline: str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> tuple[Measurement, ...]:
    """Time all contenders against each other, by batch size and then in the order given.

    At each batch size every contender warms up, then rounds follow until each has run `min_iterations` times and
    for `min_seconds` of its own time. A cap ends it earlier where speeds differ much, never before `min_iterations`.

    Args:
        contenders: files to time; all are loaded before the first run.
        batches: batch sizes.
        make_feeds: inputs for a batch size, the same for all contenders or by contender.
        open_runner: loads a contender (`tofu_export.engines.backends.open_contender`).
        warmup_ms: time that each contender runs before it is timed; at least one run.
        min_seconds: shortest measured time of each contender.
        min_iterations: least number of samples.
        threads: threads inside an operator; None for the default.
        baseline: contender that speed-ups refer to.
        on_progress: told where the benchmark stands.
        clock: monotonic time in nanoseconds.

    Raises:
        OptionError: options contradict each other, or the feeds do not fit a model or the batch size.
        ExportError: a file cannot be loaded or fails when it runs.
        BackendMissingError: a backend is missing.
    """
    _check_contenders(contenders, baseline)
    _check_batches(batches)
    rules = _Rules(warmup_ms, min_seconds, min_iterations)
    runners = [open_runner(contender, threads) for contender in contenders]
    measurements: list[Measurement] = []
    for batch in batches:
        feeds = _feeds(make_feeds, contenders, batch)
        calls = [runner.bind(own) for runner, own in zip(runners, feeds, strict=True)]
        teller = _Teller(batch, on_progress, clock)
        _warm_up(calls, rules, clock, teller)
        samples = _interleave(calls, rules, clock, teller)
        reference = next((taken for who, taken in zip(contenders, samples, strict=True) if who.name == baseline), None)
        measurements += [
            _measurement(contender, runner.device, batch, taken, reference, rules)
            for contender, runner, taken in zip(contenders, runners, samples, strict=True)
        ]
    return tuple(measurements)


@dataclass(frozen=True)
class _Rules:
    """When warming up and measuring end."""

    warmup_ms: float
    min_seconds: float
    min_iterations: int

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_ms < math.inf:
            raise OptionError(f"warmup_ms is {self.warmup_ms!r}, expected a number of milliseconds >= 0")
        if not 0 <= self.min_seconds < math.inf:
            raise OptionError(f"min_seconds is {self.min_seconds!r}, expected a number of seconds >= 0")
        if self.min_iterations < 1:
            raise OptionError(f"min_iterations is {self.min_iterations!r}, expected a whole number >= 1")

    def done(self, iterations: int, spent_ns: Sequence[int]) -> float:
        """Share of the work that is done; 1 or more ends it."""
        capped = _ratio(sum(spent_ns) / 1e9, CAP_FACTOR * self.min_seconds * len(spent_ns))
        in_time = max(_ratio(min(spent_ns) / 1e9, self.min_seconds), capped)
        return min(iterations / self.min_iterations, in_time)


class _Teller:
    """Passes progress on, about ten times a second."""

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


def _warm_up(calls: Sequence[Callable[[], object]], rules: _Rules, clock: Callable[[], int], teller: _Teller) -> None:
    for call in calls:
        teller.tell("warm-up", 0, 0.0)
        end = clock() + rules.warmup_ms * 1e6
        call()
        while clock() < end:
            call()


def _interleave(
    calls: Sequence[Callable[[], object]], rules: _Rules, clock: Callable[[], int], teller: _Teller
) -> list[list[int]]:
    """Nanoseconds per contender and round. Entries at the same index were taken within one round."""
    samples: list[list[int]] = [[] for _ in calls]
    spent = [0] * len(calls)
    rounds = 0
    while (fraction := rules.done(rounds, spent)) < 1:
        teller.tell("measure", rounds, fraction)
        for turn in range(len(calls)):
            index = (rounds + turn) % len(calls)
            start = clock()
            calls[index]()
            elapsed = max(clock() - start, 1)  # a coarse clock may stand still
            samples[index].append(elapsed)
            spent[index] += elapsed
        rounds += 1
    teller.tell("measure", rounds, 1.0)
    return samples


def _measurement(
    contender: Contender, device: str, batch: int, samples: list[int], reference: list[int] | None, rules: _Rules
) -> Measurement:
    latency = LatencyMs.of(samples)
    walltime_s = sum(samples) / 1e9
    throughput_qps = len(samples) / walltime_s
    cv_percent = 100 * statistics.pstdev(samples) / statistics.fmean(samples)
    speedup, quartiles = None, None
    if reference is not None:
        ratios = sorted(full / own for full, own in zip(reference, samples, strict=True))
        speedup = statistics.median(ratios)
        quartiles = (percentile(ratios, 25), percentile(ratios, 75))
    return Measurement(
        artifact=contender.name,
        backend=contender.backend,
        device=device,
        batch=batch,
        throughput_qps=throughput_qps,
        images_per_sec=throughput_qps * batch,
        latency_ms=latency,
        enqueue_ms=None,
        h2d_ms=None,
        gpu_compute_ms=None,
        d2h_ms=None,
        walltime_s=walltime_s,
        speedup_vs_full=speedup,
        speedup_iqr=quartiles,
        iterations=len(samples),
        cv_percent=cv_percent,
        notes=_notes(cv_percent, walltime_s, rules),
    )


def _notes(cv_percent: float, walltime_s: float, rules: _Rules) -> tuple[str, ...]:
    notes = []
    if cv_percent > UNSTABLE_CV_PERCENT:
        notes.append(
            f"{UNSTABLE}, with coefficient of variation = {cv_percent:.3g}% (over {UNSTABLE_CV_PERCENT}%): "
            "stop other programs, or measure longer"
        )
    if walltime_s < rules.min_seconds:
        notes.append(
            f"measured for {walltime_s:.3g} s instead of {rules.min_seconds:g} s: slower contenders used up the time"
        )
    return tuple(notes)


def _check_contenders(contenders: Sequence[Contender], baseline: str | None) -> None:
    counts = Counter(contender.name for contender in contenders)
    if not counts:
        raise OptionError("no contender given, expected at least one file to time")
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise OptionError(f"contenders share the name {', '.join(twice)}: give each a name of its own")
    if baseline is not None and baseline not in counts:
        raise OptionError(f"baseline {baseline!r} is not a contender, expected one of {', '.join(counts)}")


def _check_batches(batches: Sequence[int]) -> None:
    if not batches:
        raise OptionError("no batch size given, expected at least one, for example 1,8")
    wrong = [batch for batch in batches if isinstance(batch, bool) or batch < 1]
    if wrong:
        raise OptionError(f"batch size {wrong[0]!r}, expected a whole number >= 1")
    if len(set(batches)) < len(batches):
        raise OptionError(f"batch sizes {', '.join(map(str, batches))} repeat: give each once")


def _feeds(
    make_feeds: Callable[[int], Feeds] | Mapping[str, Callable[[int], Feeds]],
    contenders: Sequence[Contender],
    batch: int,
) -> list[Feeds]:
    """What each contender is fed."""
    if isinstance(make_feeds, Mapping):
        feeds = [make_feeds[contender.name](batch) for contender in contenders]
    else:
        feeds = [make_feeds(batch)] * len(contenders)
    for own in feeds:
        _check_feeds(own, batch)
    return feeds


def _check_feeds(feeds: Feeds, batch: int) -> None:
    if not any(feed.ndim and feed.shape[0] == batch for feed in feeds.values()):
        shapes = ", ".join(f"{name} {list(feed.shape)}" for name, feed in feeds.items()) or "nothing"
        raise OptionError(f"make_feeds({batch}) gave {shapes}: expected an input with {batch} as its first size")


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.inf


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
