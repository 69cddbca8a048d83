"""Result of a comparison as tables and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple

from rich.console import Console
from rich.table import Table

from tofu_export.benchmarking.comparison import BenchResult
from tofu_export.benchmarking.ort_profile import Profile, Slice
from tofu_export.benchmarking.stability import UNSTABLE
from tofu_export.benchmarking.trtexec_text import summary, verdict
from tofu_export.cli.tables import FittedTable
from tofu_export.engines.describing.stages import Kind
from tofu_export.report.measurement import Measurement

__all__ = ["show"]

_TOP_OPERATORS = 10
_MOSTLY, _NOTABLE, _NEGLIGIBLE_US = 0.5, 0.005, 0.05


def show(console: Console, result: BenchResult, *, verbose: bool = False) -> None:
    """Print timings, verdicts and profiles.

    Args:
        console: console to print to.
        result: result of the comparison.
        verbose: also print all percentiles, and profiles by block and operator.
    """
    if verbose:
        for row in (*result.measurements, *result.recorded):
            _say(console, f"{summary(row)}\n")
    gmacs = {entry.name: entry.gmacs for entry in result.files}
    realised = [str(row) for row in result.realised]
    for rows, baseline, work in (
        (result.measurements, result.baseline, realised),
        (result.recorded, result.recorded_baseline, []),
    ):
        for backend, device in dict.fromkeys((row.backend, row.device) for row in rows):
            own = [row for row in rows if (row.backend, row.device) == (backend, device)]
            _say(console, f"{backend} on {device}")
            console.print(FittedTable(_timings(own, baseline, gmacs), ("GMACs", "p99 ms", "batch")))
        _say(console, *(line for row in rows if (line := verdict(row, baseline=baseline)) is not None), *work)
    _say(console, *map(str, result.alone), *_notes(result))
    for batch in dict.fromkeys(entry.batch for entry in result.profiles):
        profiles = [entry for entry in result.profiles if entry.batch == batch]
        _say(console, f"\ntime by part, batch {batch} (ms, share)")
        console.print(FittedTable(_profile_table(profiles)))
        _say(console, *map(_reduction, profiles), *_caveats(profiles))
        for entry in profiles if verbose else ():
            _say(console, f"\n{entry.artifact}, batch {batch}, ms by block")
            console.print(FittedTable(_block_table(entry)))
            _say(console, f"\n{entry.artifact}, batch {batch}, by operator")
            console.print(FittedTable(_operator_table(entry)))


def _timings(rows: Sequence[Measurement], baseline: str | None, gmacs: Mapping[str, float | None]) -> Table:
    table = _table("file")
    device = any(row.gpu_compute_ms is not None for row in rows)
    columns = ("batch", "median ms", "p99 ms", *(["GPU ms"] if device else []), "images/s", "GMACs")
    for column in (*columns, *([f"against {baseline}"] if baseline else [])):
        table.add_column(column, justify="right")
    batch = rows[0].batch
    for row in rows:
        if row.batch != batch:
            table.add_section()
            batch = row.batch
        cells = [row.artifact, str(row.batch), _figure(row.latency_ms.median), _figure(row.latency_ms.p99)]
        cells += [_figure(row.gpu_compute_ms)] if device else []
        work = gmacs.get(row.artifact)
        cells += [_figure(row.images_per_sec), "-" if work is None else f"{work:.2f}"]
        table.add_row(*cells, *([_ratio(row)] if baseline else []))
    return table


def _figure(value: float | None) -> str:
    """Format a number with four digits, without an exponent."""
    return "-" if value is None else f"{value:.0f}" if value >= 1000 else f"{value:.4g}"


def _ratio(row: Measurement) -> str:
    if row.speedup_vs_full is None:
        return "-"
    if row.speedup_iqr is None:
        return f"{row.speedup_vs_full:.2f}x"
    return f"{row.speedup_vs_full:.2f}x ({row.speedup_iqr[0]:.2f}-{row.speedup_iqr[1]:.2f})"


def _notes(result: BenchResult) -> list[str]:
    """Return notes on the timings; all unstable latencies in one line."""
    rows = (*result.measurements, *result.recorded)
    unstable = ", ".join(
        f"{row.artifact} {row.cv_percent:.2g} % at batch {row.batch}"
        for row in rows
        if row.cv_percent is not None and any(note.startswith(UNSTABLE) for note in row.notes)
    )
    return [
        *(
            [f"* unstable latency (coefficient of variation): {unstable}. Stop other programs, or measure longer"]
            if unstable
            else []
        ),
        *(
            f"* {row.artifact}, batch {row.batch}: {note}"
            for row in rows
            for note in row.notes
            if not note.startswith(UNSTABLE)
        ),
        *(f"* {warning}" for warning in result.warnings),
    ]


def _profile_table(profiles: Sequence[Profile]) -> Table:
    """Return a table of kinds of work by file."""
    table = _table("part")
    for entry in profiles:
        table.add_column(entry.artifact, justify="right")
    parts = [entry.by_kind() for entry in profiles]
    for kind in Kind:
        if any(kind in own for own in parts):
            table.add_row(kind.value, *(_cell(own.get(kind)) for own in parts))
    table.add_section()
    table.add_row("all kernels", *(_cell(Slice(entry.kernels_ms, 1.0, 0)) for entry in profiles))
    return table


def _reduction(entry: Profile) -> str:
    """Return the share of time of matching and merging as text."""
    part = entry.reduction
    if not part.kernels:
        return f"reduction in {entry.artifact}: none"
    line = (
        f"reduction in {entry.artifact} (matching and merging): {_ms(part.ms)} of {_ms(entry.kernels_ms)} ms, "
        f"{_percent(part.share)}, in {part.kernels} of {len(entry.kernels)} kernels"
    )
    if entry.profiler_us < _NEGLIGIBLE_US:
        return line
    net, own = entry.net_reduction, f"{entry.profiler_us:.1f} us a kernel"
    return f"{line}; about {_ms(net.ms)} ms, {_percent(net.share)}, without the profiler's own {own}"


def _caveats(profiles: Sequence[Profile]) -> list[str]:
    """Return notes on the profiles."""
    slowed = ", ".join(
        f"{entry.artifact} {_ms(entry.query_ms)} instead of {_ms(entry.plain_ms)} ms" for entry in profiles
    )
    return [
        f"* shares, not speeds; a query under the profiler: {slowed}",
        *(
            f"* {entry.artifact}: most nodes carry no names of modules, so they count as 'other'"
            for entry in profiles
            if (other := entry.by_kind().get(Kind.OTHER)) is not None and other.share > _MOSTLY
        ),
        *(
            f"* {entry.artifact}: counted where their neighbours are: {_ms(entry.inferred.ms)} ms in kernels "
            f"that the optimiser put in ({entry.inferred.kernels})"
            for entry in profiles
            if entry.inferred.share > _NOTABLE
        ),
    ]


def _block_table(entry: Profile) -> Table:
    """Return a table of blocks by kind of work, for one file."""
    kinds = list(entry.by_kind())
    table = _table("block")
    for kind in kinds:
        table.add_column(kind.value, justify="right")
    table.add_column("all", justify="right")
    parts = entry.by_place()
    for stage in dict.fromkeys(place.stage for place in parts):
        own = {place.kind: part.ms for place, part in parts.items() if place.stage == stage}
        cells = (_ms(own[kind]) if kind in own else "" for kind in kinds)
        table.add_row(stage or "(the model itself)", *cells, _ms(sum(own.values())))
    return table


def _operator_table(entry: Profile) -> Table:
    table = _table("operator")
    for column in ("kernels", "ms", "share"):
        table.add_column(column, justify="right")
    parts = list(entry.by_operator().items())
    rest = parts[_TOP_OPERATORS:]
    if rest:
        ms, share, kernels = (sum(figure) for figure in zip(*(astuple(part) for _, part in rest), strict=True))
        parts[_TOP_OPERATORS:] = [(f"{len(rest)} others", Slice(ms, share, kernels))]
    for op, part in parts:
        table.add_row(op, str(part.kernels), _ms(part.ms), _percent(part.share))
    return table


def _cell(part: Slice | None) -> str:
    return "-" if part is None else f"{_ms(part.ms)} {_percent(part.share):>7}"


def _ms(value: float) -> str:
    """Format milliseconds with three digits, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _table(first_column: str) -> Table:
    table = Table()
    table.add_column(first_column)
    return table


def _say(console: Console, *lines: str) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
