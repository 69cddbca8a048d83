"""Profile the time of a query by part of the model, with onnxruntime's own profiler.

The profiler records the time of every kernel, which slows a run down: its times show how a query divides, `benchmark`
how long one takes. A kernel's time is its median over the runs, so that the parts add up and one disturbed run does not
count. Runs without the profiler alternate with those under it, and show what the profiler itself costs.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from tofu_export.benchmarking.benchmark import Feeds
from tofu_export.engines.describing.stages import Kind, Located, Place, locate
from tofu_export.errors import ExportError
from tofu_export.system.ort import OPTIMIZED_NAME, open_session
from tofu_export.system.typed_json import JsonObject, rounded_object

__all__ = ["Kernel", "Profile", "Slice", "assign", "profile", "read_trace"]

WARMUP_RUNS = 2
MIN_RUNS, MAX_RUNS = 5, 50
MAX_EVENTS = 100_000
"""Number of events to record: the profiler keeps a million and drops the rest; reading this many takes about 1 s."""
SECONDS = 1.0

_KERNEL = "_kernel_time"
_UNNAMED = Located(Place("", Kind.OTHER))


@dataclass(frozen=True)
class Kernel:
    """Node of the graph that onnxruntime runs.

    Attributes:
        name: its name, made of operator and number by onnxruntime if the file gives none.
        op_type: its operator.
        ms: median time over the runs, in milliseconds.
    """

    name: str
    op_type: str
    ms: float


@dataclass(frozen=True)
class Slice:
    """Part of a query's time.

    Attributes:
        ms: milliseconds per query.
        share: of the time of all kernels, 0 to 1.
        kernels: number of kernels per query.
    """

    ms: float
    share: float
    kernels: int


@dataclass(frozen=True)
class Profile:
    """Profile of one file's queries at one batch size.

    Attributes:
        artifact: name of the file.
        batch: images per query.
        runs: profiled runs, without those for warming up.
        query_ms: median time of a query under the profiler, in milliseconds.
        plain_ms: median time of a query without the profiler, from alternating runs.
        kernels: the graph's kernels in the order of execution.
        located: place of each kernel in the model.
    """

    artifact: str
    batch: int
    runs: int
    query_ms: float
    plain_ms: float
    kernels: tuple[Kernel, ...]
    located: tuple[Located, ...]

    @property
    def kernels_ms(self) -> float:
        """Time of all kernels of a query, in milliseconds; shares refer to it."""
        return sum(kernel.ms for kernel in self.kernels)

    @property
    def reduction(self) -> Slice:
        """Time of matching and merging together."""
        return self._slice([where.place.kind.reduces for where in self.located])

    @property
    def profiler_us(self) -> float:
        """Time that the profiler adds to each kernel, in microseconds, at least.

        All kernels together cannot take longer than a query without the profiler; the excess is spread evenly.
        """
        return max(self.kernels_ms - self.plain_ms, 0.0) * 1e3 / max(len(self.kernels), 1)

    @property
    def net_reduction(self) -> Slice:
        """Time of the reduction, and its share, without what the profiler adds to each kernel.

        This is an estimate, more likely too high, because `profiler_us` is more likely too low.
        """
        part, each = self.reduction, self.profiler_us / 1e3
        ms = max(part.ms - part.kernels * each, 0.0)
        whole = self.kernels_ms - len(self.kernels) * each
        return Slice(ms, ms / whole if whole > 0 else 0.0, part.kernels)

    @property
    def inferred(self) -> Slice:
        """Time of nodes that the optimiser added, which is included in the other figures by their neighbours."""
        return self._slice([where.inferred for where in self.located])

    def by_kind(self) -> dict[Kind, Slice]:
        """Return the time by kind, for every kind that the model has, in the order of `Kind`."""
        present = {where.place.kind for where in self.located}
        return {
            kind: self._slice([where.place.kind is kind for where in self.located]) for kind in Kind if kind in present
        }

    def by_place(self) -> dict[Place, Slice]:
        """Return the time by block and kind, in the order of execution."""
        found = dict.fromkeys(where.place for where in self.located)
        return {place: self._slice([where.place == place for where in self.located]) for place in found}

    def by_operator(self) -> dict[str, Slice]:
        """Return the time by operator, longest first."""
        operators = {kernel.op_type for kernel in self.kernels}
        parts = {op: self._slice([kernel.op_type == op for kernel in self.kernels]) for op in sorted(operators)}
        return dict(sorted(parts.items(), key=lambda part: -part[1].ms))

    def to_dict(self) -> JsonObject:
        """Return the profile as JSON values."""
        return rounded_object(
            {
                "artifact": self.artifact,
                "batch": self.batch,
                "runs": self.runs,
                "query_ms": self.query_ms,
                "plain_ms": self.plain_ms,
                "kernels_ms": self.kernels_ms,
                "profiler_us": self.profiler_us,
                "reduction": self.reduction,
                "net_reduction": self.net_reduction,
                "inferred": self.inferred,
                "kinds": {kind.value: part for kind, part in self.by_kind().items()},
                "stages": [
                    {"stage": place.stage, "kind": place.kind, **vars(part)} for place, part in self.by_place().items()
                ],
                "operators": self.by_operator(),
            }
        )

    def _slice(self, chosen: Sequence[bool]) -> Slice:
        ms = sum(kernel.ms for kernel, take in zip(self.kernels, chosen, strict=True) if take)
        return Slice(ms, ms / self.kernels_ms if self.kernels_ms else 0.0, sum(chosen))


def profile(path: Path, name: str, feeds: Feeds, batch: int, *, threads: int | None = None) -> Profile:
    """Run a file under onnxruntime's profiler, on the CPU, for about a second.

    Args:
        path: the file.
        name: name in the result.
        feeds: its inputs, in the types that it needs.
        batch: images per query.
        threads: threads inside an operator; None for the default.

    Raises:
        OptionError: the feeds do not fit.
        ExportError: the file cannot be loaded or fails when it runs, or the trace cannot be read.
        BackendMissingError: onnxruntime is missing.
    """
    with tempfile.TemporaryDirectory(prefix="tofu-export-profile-") as folder:
        # Idle threads of one session would spin on the cores that the other needs.
        session = open_session(path, threads=threads, share_cores=True, profile_into=Path(folder))
        plain = open_session(path, threads=threads, share_cores=True)
        source, running = _graph(path), _graph(Path(folder) / OPTIMIZED_NAME)
        plain_ns = _take_turns(session.bind(feeds), plain.bind(feeds), len(running.node))
        trace = session.end_profiling().read_text(encoding="utf-8")
    kernels, query_ms, runs = read_trace(trace, skip=WARMUP_RUNS)
    located = assign(kernels, running, locate(source, running))
    return Profile(name, batch, runs, query_ms, statistics.median(plain_ns) / 1e6, kernels, located)


def _take_turns(profiled: Callable[[], object], plain: Callable[[], object], kernels: int) -> list[int]:
    """Run both alternately for about a second, after warming up; return the plain runs' times in nanoseconds."""
    most = min(MAX_RUNS, max(MIN_RUNS, MAX_EVENTS // max(kernels, 1)))
    for _ in range(WARMUP_RUNS):
        profiled()
        plain()
    taken: list[int] = []
    end = time.perf_counter() + SECONDS
    while len(taken) < MIN_RUNS or (len(taken) < most and time.perf_counter() < end):
        profiled()
        start = time.perf_counter_ns()
        plain()
        taken.append(time.perf_counter_ns() - start)
    return taken


def read_trace(text: str, *, skip: int = 0) -> tuple[tuple[Kernel, ...], float, int]:
    """Read kernels, median query time in milliseconds, and number of runs from the profiler's JSON.

    Kernels inside of another one (the body of a loop) are part of its time and not listed.

    Args:
        text: the trace.
        skip: number of runs to leave out at the start.

    Raises:
        ExportError: the text is not such a trace, holds too few runs, or its runs differ in their kernels.
    """
    try:
        events = json.loads(text)
        runs = sorted(_span(e) for e in events if e["cat"] == "Session" and e["name"] == "model_run")
        nodes = sorted(
            ((*_span(e), e["name"].removesuffix(_KERNEL), e["args"]["op_name"]) for e in events if _is_kernel(e)),
            key=lambda kernel: (
                kernel[0],
                -kernel[1],
            ),  # of those that begin together, the longest encloses the others
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ExportError(f"onnxruntime's profile cannot be read: {type(error).__name__}: {error}") from error
    if len(runs) <= skip:
        raise ExportError(f"onnxruntime's profile holds {len(runs)} runs, expected more than {skip}")
    starts = [kernel[0] for kernel in nodes]
    taken: list[list[tuple[str, str, float]]] = []
    for begin, end in runs[skip:]:
        outermost: list[tuple[str, str, float]] = []
        busy_until = begin
        for start, stop, name, op_type in nodes[bisect_left(starts, begin) : bisect_right(starts, end)]:
            if start >= busy_until:
                outermost.append((name, op_type, (stop - start) / 1e3))
                busy_until = stop
        taken.append(outermost)
    order = [kernel[:2] for kernel in taken[0]]
    if any([kernel[:2] for kernel in run] != order for run in taken):
        raise ExportError("the runs of onnxruntime's profile differ in their kernels: it is cut short; profile again")
    kernels = tuple(
        Kernel(name, op_type, statistics.median(run[index][2] for run in taken))
        for index, (name, op_type) in enumerate(order)
    )
    return kernels, statistics.median((end - start) / 1e3 for start, end in runs[skip:]), len(taken)


def assign(kernels: Sequence[Kernel], graph: onnx.GraphProto, located: Sequence[Located]) -> tuple[Located, ...]:
    """Return the place of each kernel.

    onnxruntime saves the nodes of a graph in the order in which it runs them. If the two agree in number and
    operators, kernel i is node i; otherwise only kernels with a name that no other node has are placed.

    Args:
        kernels: as they ran.
        graph: the graph that ran.
        located: place of each of its nodes.
    """
    if [kernel.op_type for kernel in kernels] == [node.op_type for node in graph.node]:
        return tuple(located)
    names = Counter(node.name for node in graph.node)
    unique = {
        node.name: where for node, where in zip(graph.node, located, strict=True) if node.name and names[node.name] == 1
    }
    return tuple(unique.get(kernel.name, _UNNAMED) for kernel in kernels)


def _span(event: Mapping[str, Any]) -> tuple[float, float]:
    """Return begin and end of an event, in microseconds."""
    return float(event["ts"]), float(event["ts"]) + float(event["dur"])


def _is_kernel(event: Mapping[str, Any]) -> bool:
    return event["cat"] == "Node" and str(event["name"]).endswith(_KERNEL)


def _graph(path: Path) -> onnx.GraphProto:
    try:
        return onnx.load(path, load_external_data=False).graph
    except Exception as error:  # protobuf's DecodeError, in a module without types
        raise ExportError(f"{path} cannot be read: {error}") from error
