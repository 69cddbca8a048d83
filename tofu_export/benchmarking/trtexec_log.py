"""Read measurements from trtexec's output, so that numbers of a device without Python come into the same report.

Two records are read: what trtexec prints (`trtexec ... | tee run.log`), and the JSON of `--exportTimes`. Their form is
that of trtexec 10, whose times exclude warming up; its latency is the copy to the device, the kernels, the copy back.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from tofu_export.benchmarking.comparison import short_names
from tofu_export.benchmarking.stability import unstable_note
from tofu_export.engines.running.gpu_times import QueryTimes, bound_notes, coefficient_of_variation
from tofu_export.errors import OptionError
from tofu_export.report.measurement import LatencyMs, Measurement, QuerySamples

__all__ = ["BACKEND", "Records", "against", "read_log", "read_records", "read_times"]

BACKEND = "trt"
"""Name of TensorRT's own runtime in reports."""

UNKNOWN_DEVICE = "unknown GPU"

_PREFIX = re.compile(r"^(?:\[\d[\d/]*-[\d:]+\] )?\[(?P<level>[A-Z])\] ?(?P<text>.*)$")
_SUMMARY = "=== Performance summary ==="
_BINDING = re.compile(r"^(?:Created input|Input) binding for .+ with dimensions (\d+)")
_QUERIES = re.compile(r"^Timing trace has (\d+) queries over ")
_DEVICE = re.compile(r"^Selected Device: (.+)$")
_FIGURE = re.compile(r"(min|max|mean|median|percentile\(\d+(?:\.\d+)?%\)) = (\S+) ms")
_LATENCY = ("min", "max", "mean", "median", "percentile(90%)", "percentile(95%)", "percentile(99%)")
_TIMES = ("startEnqMs", "endEnqMs", "startH2dMs", "endD2hMs", "h2dMs", "computeMs", "d2hMs", "latencyMs")


class Records(NamedTuple):
    """Recorded runs.

    Attributes:
        rows: one measurement per run, with speed-ups against the baseline.
        baseline: name of the run that ratios refer to; None if there is only one.
        asked: True if that run was asked for, False if it is just the first one.
    """

    rows: tuple[Measurement, ...]
    baseline: str | None
    asked: bool


def read_records(
    logs: Sequence[Path], times: Sequence[Path], *, batches: Sequence[int] = (), baseline: str | None = None
) -> Records:
    """Read all runs, with speed-ups against one of them.

    Args:
        logs: outputs of trtexec.
        times: files of `--exportTimes`.
        batches: the batch size of those files, a single one; not needed for logs.
        baseline: name or path of the run to refer to; the first one if it is not among them.

    Raises:
        OptionError: as in `read_log` and `read_times`, or the batch size of the times is unknown.
    """
    paths = (*logs, *times)
    names = short_names(paths)
    if times and len(batches) != 1:
        raise OptionError("--trtexec-times files do not say their batch size: give it with --batch, one for all")
    rows = [read_log(path, name) for path, name in zip(logs, names, strict=False)]
    rows += [read_times(path, name, batches[0]) for path, name in zip(times, names[len(logs) :], strict=True)]
    asked = next((name for path, name in zip(paths, names, strict=True) if baseline in (name, str(path))), None)
    chosen = asked or (names[0] if len(names) > 1 else None)
    return Records(against(rows, chosen) if chosen is not None else tuple(rows), chosen, asked is not None)


def read_log(path: Path, name: str) -> Measurement:
    """Read the run that trtexec reports in its output.

    Args:
        path: the output, in a file.
        name: name of the run in tables.

    Raises:
        OptionError: the file cannot be read, is of a run that failed or of several runs, or lacks a figure.
    """
    text = _read(path)
    if "&&&& FAILED" in text:
        raise OptionError(f"{path} is of a trtexec run that failed: {_first_error(text)}")
    lines = [match for match in map(_PREFIX.match, text.splitlines()) if match is not None]
    said = [match["text"].strip() for match in lines]
    if said.count(_SUMMARY) != 1:
        raise OptionError(
            f"{path} holds {said.count(_SUMMARY)} lines '{_SUMMARY}', expected the output of one run of trtexec"
        )
    start = said.index(_SUMMARY)
    before = said[:start]
    # With --verbose an explanation of each line follows, which begins like the line itself: the first one counts.
    rows = dict(_row(line) for line in reversed(said[start:]) if ": " in line)
    batch = _first(_BINDING, before)
    if batch is None:
        raise OptionError(
            f"{path} does not say the shape of an input, expected 'Input binding for ... with dimensions'"
        )
    latency = _figures(path, rows, "Latency")
    missing = [figure for figure in _LATENCY if figure not in latency]
    if missing:
        raise OptionError(f"{path} lacks {', '.join(missing)} of the latency: run trtexec with --percentile=90,95,99")
    throughput = _number(path, rows, "Throughput", "qps")
    queries = _first(_QUERIES, before)
    walltime_s = _number(path, rows, "Total Host Walltime", "s")
    warnings = [match["text"].strip() for match in lines if match["level"] == "W" and match["text"].startswith("* ")]
    return Measurement(
        artifact=name,
        backend=BACKEND,
        device=_first(_DEVICE, before) or UNKNOWN_DEVICE,
        batch=int(batch),
        throughput_qps=throughput,
        images_per_sec=throughput * int(batch),
        latency_ms=LatencyMs(*(latency[figure] for figure in _LATENCY)),
        enqueue_ms=_figures(path, rows, "Enqueue Time")["median"],
        h2d_ms=_figures(path, rows, "H2D Latency")["median"],
        gpu_compute_ms=_figures(path, rows, "GPU Compute Time")["median"],
        d2h_ms=_figures(path, rows, "D2H Latency")["median"],
        walltime_s=walltime_s,
        speedup_vs_full=None,
        speedup_iqr=None,
        iterations=int(queries) if queries is not None else round(throughput * walltime_s),
        cv_percent=None,
        notes=tuple(warning.removeprefix("* ").rstrip(".") for warning in warnings),
    )


def read_times(path: Path, name: str, batch: int) -> Measurement:
    """Read the run whose queries trtexec wrote with `--exportTimes`.

    Args:
        path: the JSON.
        name: name of the run in tables.
        batch: images per query, which the file does not state.

    Raises:
        OptionError: the file cannot be read, is no such JSON, or holds no query.
    """
    try:
        queries = [_query(entry) for entry in json.loads(_read(path))]
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise OptionError(
            f"{path} is not what trtexec writes with --exportTimes ({type(error).__name__}: {error}), expected a list "
            f"of queries with {', '.join(_TIMES)}"
        ) from error
    if not queries:
        raise OptionError(f"{path} holds no query: let trtexec run longer")
    begin = min(min(query["startEnqMs"], query["startH2dMs"]) for query in queries)
    walltime_s = (max(query["endD2hMs"] for query in queries) - begin) / 1e3
    if walltime_s <= 0:
        raise OptionError(f"{path} ends before it begins: it is damaged")
    latencies = [query["latencyMs"] for query in queries]
    cv_percent = coefficient_of_variation(latencies)
    medians = QueryTimes.medians(
        [
            QueryTimes(query["endEnqMs"] - query["startEnqMs"], query["h2dMs"], query["computeMs"], query["d2hMs"])
            for query in queries
        ]
    )
    return Measurement.of_queries(
        name,
        BACKEND,
        UNKNOWN_DEVICE,
        batch,
        QuerySamples(latencies, len(queries), walltime_s, medians, cv_percent),
        notes=(
            *unstable_note(cv_percent),
            *bound_notes(medians, remedy="try --useCudaGraph, which trtexec 11 does by itself"),
        ),
    )


def against(rows: Sequence[Measurement], baseline: str) -> tuple[Measurement, ...]:
    """Return the measurements with speed-ups against the named one, if batch size and device are equal.

    They were not interleaved, so the ratios of medians have no spread.
    """
    full = {(row.batch, row.device): row.latency_ms.median for row in rows if row.artifact == baseline}
    return tuple(
        replace(row, speedup_vs_full=full[row.batch, row.device] / row.latency_ms.median)
        if (row.batch, row.device) in full
        else row
        for row in rows
    )


def _read(path: Path) -> str:
    """Read the text of a file; PowerShell redirects output as UTF-16."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise OptionError(f"cannot read {path}: {error.strerror or error}") from error
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if wide else "utf-8-sig", errors="replace")


def _first(pattern: re.Pattern[str], lines: Sequence[str]) -> str | None:
    return next((match[1] for match in map(pattern.match, lines) if match is not None), None)


def _first_error(text: str) -> str:
    errors = (
        match["text"].strip() for match in map(_PREFIX.match, text.splitlines()) if match and match["level"] == "E"
    )
    return next(errors, "it gives no reason")


def _row(line: str) -> tuple[str, str]:
    name, _, value = line.partition(": ")
    return name, value


def _figures(path: Path, rows: dict[str, str], row: str) -> dict[str, float]:
    """Return the figures of a row in milliseconds, the median among them."""
    try:
        found = {name: _finite(value) for name, value in _FIGURE.findall(rows.get(row, ""))}
    except ValueError:
        found = {}
    if found.get("median", -1) < 0:
        raise OptionError(
            f"{path} lacks the line '{row}: min = ... ms, ... median = ... ms': it is cut short or damaged"
        )
    return found


def _number(path: Path, rows: dict[str, str], row: str, unit: str) -> float:
    value, _, own = rows.get(row, "").partition(" ")
    try:
        number = _finite(value)
    except ValueError:
        number = -1.0
    if number <= 0 or own != unit:
        raise OptionError(f"{path} lacks the line '{row}: ... {unit}': it is cut short or damaged")
    return number


def _query(entry: dict[str, Any]) -> dict[str, float]:
    query = {name: _finite(entry[name]) for name in _TIMES}
    if query["latencyMs"] <= 0:
        raise ValueError(f"latencyMs is {query['latencyMs']}")
    return query


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value} is not finite")
    return number
