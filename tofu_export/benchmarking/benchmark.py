"""Compare model files fairly: one process, interleaved runs, ratios of paired samples.

Noise of the machine (other processes, clock frequency, heat) changes within seconds. If models are timed one after the
other, it may affect only one of them, so here every round runs each contender once, the first of a round changes each
time, and a speed-up comes with the spread of the ratios within the rounds.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from tofu_export.benchmarking._pace import DEFAULT_RULES, Progress, Rules, Teller
from tofu_export.benchmarking.stability import unstable_note
from tofu_export.engines.running.gpu_times import QueryTimes, bound_notes, coefficient_of_variation
from tofu_export.errors import OptionError
from tofu_export.report.measurement import Measurement, QuerySamples, percentile

__all__ = [
    "DEFAULT_RULES",
    "Bound",
    "Contender",
    "Feeds",
    "Opener",
    "Progress",
    "Rules",
    "Runner",
    "run_benchmark",
]

Feeds = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Contender:
    """File to time.

    Attributes:
        name: name in tables and reports, unique in a benchmark.
        path: the file.
        backend: backend that runs it.
    """

    name: str
    path: Path
    backend: str = "ort-cpu"


@dataclass(frozen=True)
class Bound:
    """Contender that is ready to run on some feeds.

    Attributes:
        call: runs it and returns when the result is there. Its return value is used if it is a list of
            `QueryTimes`, one for each of `queries`.
        queries: number of queries that a call answers.
        notes: notes for the reader of its times.
        remedy: advice if enqueueing is the bottleneck.
    """

    call: Callable[[], object]
    queries: int = 1
    notes: tuple[str, ...] = ()
    remedy: str = ""


class Runner(Protocol):
    """Loaded contender."""

    @property
    def device(self) -> str:
        """Name of the hardware that runs it."""

    def bind(self, feeds: Feeds) -> Callable[[], object] | Bound:
        """Return a function that runs the contender on these feeds and returns when the result is there."""


Opener = Callable[[Contender, "int | None"], Runner]
"""Loader of a contender, with a number of threads or the default."""


def run_benchmark(
    contenders: Sequence[Contender],
    *,
    batches: Sequence[int],
    make_feeds: Callable[[int], Feeds] | Mapping[str, Callable[[int], Feeds]],
    open_runner: Opener,
    rules: Rules = DEFAULT_RULES,
    threads: int | None = None,
    baseline: str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> tuple[Measurement, ...]:
    """Time all contenders against each other; results are by batch size and then in the order given.

    At each batch size every contender warms up, then rounds follow until each has run often and long enough. A cap
    ends it earlier if speeds differ much, never before the least number of samples.

    Args:
        contenders: files to time; all are loaded before the first run.
        batches: batch sizes.
        make_feeds: inputs for a batch size, the same for all contenders or by contender.
        open_runner: loads a contender (`tofu_export.benchmarking.backends.open_contender`).
        rules: when warming up and measuring end.
        threads: threads inside an operator; None for the default.
        baseline: contender that speed-ups refer to.
        on_progress: called with the progress.
        clock: monotonic time in nanoseconds.

    Raises:
        OptionError: options contradict each other, or the feeds do not fit a model or the batch size.
        ExportError: a file cannot be loaded or fails when it runs.
        BackendMissingError: a backend is missing.
    """
    _check_contenders(contenders, baseline)
    _check_batches(batches)
    runners = [open_runner(contender, threads) for contender in contenders]
    measurements: list[Measurement] = []
    for batch in batches:
        feeds = _feeds(make_feeds, contenders, batch)
        bound = [_bound(runner.bind(own)) for runner, own in zip(runners, feeds, strict=True)]
        teller = Teller(batch, on_progress, clock)
        _warm_up([ready.call for ready in bound], rules, clock, teller)
        samples = _interleave(bound, rules, clock, teller)
        reference = next((taken for who, taken in zip(contenders, samples, strict=True) if who.name == baseline), None)
        measurements += [
            _measurement(contender, runner.device, batch, taken, reference, rules)
            for contender, runner, taken in zip(contenders, runners, samples, strict=True)
        ]
    return tuple(measurements)


def _bound(ready: Callable[[], object] | Bound) -> Bound:
    return ready if isinstance(ready, Bound) else Bound(ready)


@dataclass
class _Samples:
    """Samples of one contender: by round, host time of the call in nanoseconds and times on the GPU, if any."""

    bound: Bound
    calls_ns: list[int] = field(default_factory=list)
    gpu: list[list[QueryTimes]] = field(default_factory=list)

    def take(self, elapsed_ns: int, result: object) -> None:
        self.calls_ns.append(elapsed_ns)
        if isinstance(result, list) and result and isinstance(result[0], QueryTimes):
            self.gpu.append(result)

    @property
    def queries(self) -> list[QueryTimes]:
        return [query for taken in self.gpu for query in taken]

    def by_round(self, *, gpu: bool) -> list[float]:
        """Return the latency of a query in each round, in nanoseconds."""
        if gpu:
            return [1e6 * statistics.fmean(query.latency_ms for query in taken) for taken in self.gpu]
        return [taken / self.bound.queries for taken in self.calls_ns]


def _warm_up(calls: Sequence[Callable[[], object]], rules: Rules, clock: Callable[[], int], teller: Teller) -> None:
    for call in calls:
        teller.tell("warm-up", 0, 0.0)
        end = clock() + rules.warmup_ms * 1e6
        call()
        while clock() < end:
            call()


def _interleave(bound: Sequence[Bound], rules: Rules, clock: Callable[[], int], teller: Teller) -> list[_Samples]:
    """Return samples per contender. Entries at the same index were taken within one round."""
    samples = [_Samples(ready) for ready in bound]
    spent = [0] * len(bound)
    rounds = 0
    while (fraction := rules.done(rounds, spent)) < 1:
        teller.tell("measure", rounds, fraction)
        for turn in range(len(bound)):
            index = (rounds + turn) % len(bound)
            start = clock()
            result = bound[index].call()
            elapsed = max(clock() - start, 1)  # a coarse clock may stand still
            samples[index].take(elapsed, result)
            spent[index] += elapsed
        rounds += 1
    teller.tell("measure", rounds, 1.0)
    return samples


def _measurement(
    contender: Contender, device: str, batch: int, samples: _Samples, reference: _Samples | None, rules: Rules
) -> Measurement:
    queries = samples.queries
    latencies_ms = [query.latency_ms for query in queries] or [taken / 1e6 for taken in samples.by_round(gpu=False)]
    walltime_s = sum(samples.calls_ns) / 1e9
    cv_percent = coefficient_of_variation([query.compute_ms for query in queries] or latencies_ms)
    medians = QueryTimes.medians(queries) if queries else None
    remedy = "stop other programs, or measure longer" if medians is None else "lock the GPU's clock, or measure longer"
    found = Measurement.of_queries(
        contender.name,
        contender.backend,
        device,
        batch,
        QuerySamples(latencies_ms, len(samples.calls_ns) * samples.bound.queries, walltime_s, medians, cv_percent),
        notes=(
            *samples.bound.notes,
            *unstable_note(cv_percent, gpu=medians is not None, remedy=remedy),
            *_short_note(walltime_s, rules),
            *(() if medians is None else bound_notes(medians, remedy=samples.bound.remedy)),
        ),
    )
    if reference is None:
        return found
    gpu = bool(samples.gpu and reference.gpu)  # else the host's time, for both
    ratios = sorted(
        full / own for full, own in zip(reference.by_round(gpu=gpu), samples.by_round(gpu=gpu), strict=True)
    )
    quartiles = percentile(ratios, 25), percentile(ratios, 75)
    return replace(found, speedup_vs_full=statistics.median(ratios), speedup_iqr=quartiles)


def _short_note(walltime_s: float, rules: Rules) -> tuple[str, ...]:
    if walltime_s >= rules.min_seconds:
        return ()
    return (f"measured for {walltime_s:.3g} s instead of {rules.min_seconds:g} s: slower contenders used up the time",)


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
    """Return the feeds of each contender."""
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
