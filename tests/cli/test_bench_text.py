"""Tables and sentences about a comparison."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from tests.benchmarking.measured import FULL, PROFILE, REDUCED
from tofu_export.benchmarking.comparison import BenchFile, BenchResult
from tofu_export.benchmarking.ort_profile import Kernel, Profile
from tofu_export.benchmarking.stability import UNSTABLE
from tofu_export.cli.bench_text import show
from tofu_export.engines.describing.stages import Kind, Located, Place

FILES = tuple(BenchFile(name, Path(name), gmacs, {}, {}) for name, gmacs in (("full", 2.0), ("reduced", 1.0)))
HALF = replace(REDUCED, latency_ms=replace(REDUCED.latency_ms, median=101.8))
RESULT = BenchResult(FILES, "full", (FULL, HALF), (), (), ())


def shown(result: BenchResult, *, verbose: bool = False) -> list[str]:
    text = io.StringIO()
    show(Console(file=text, width=200), result, verbose=verbose)
    return text.getvalue().splitlines()


def row(lines: list[str], first: str) -> list[str]:
    (line,) = (line for line in lines if line.startswith(f"│ {first} "))
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_a_row_for_each_file() -> None:
    lines = shown(RESULT)
    assert lines[0] == "ort-cpu on ACME 9000"
    assert row(lines, "reduced") == ["reduced", "8", "101.8", "230.1", "40.01", "1.00", "1.98x (1.96-2.01)"]
    assert lines[-2:] == [
        "reduced is 1.98x the full model at batch 8 (IQR 1.96-2.01)",
        "reduced at batch 8: 1.98x full for 2.00x fewer GMACs (99 %)",
    ]


def test_unstable_latencies_share_a_line_and_other_notes_do_not() -> None:
    noisy = replace(FULL, cv_percent=12.3, notes=(f"{UNSTABLE}, with more words", "something else"))
    lines = shown(replace(RESULT, measurements=(noisy, replace(noisy, artifact="reduced")), warnings=("beware",)))
    assert lines[-4:] == [
        "* unstable latency (coefficient of variation): full 12 % at batch 8, reduced 12 % at batch 8. "
        "Stop other programs, or measure longer",
        "* full, batch 8: something else",
        "* reduced, batch 8: something else",
        "* beware",
    ]


def test_long_latencies_have_no_exponent() -> None:
    slow = replace(FULL, latency_ms=replace(FULL.latency_ms, median=12345.6), images_per_sec=0.648)
    assert row(shown(replace(RESULT, measurements=(slow,))), "full")[2:5] == ["12346", "230.1", "0.648"]


def test_profiles_side_by_side() -> None:
    reduced = replace(PROFILE, artifact="reduced")
    full = Profile("full", 8, 5, 2100.0, 2000.0, (Kernel("n", "A", 1990.0),), (Located(Place("blocks.0", Kind.MLP)),))
    lines = shown(replace(RESULT, profiles=(full, reduced)), verbose=True)
    assert row(lines, "mlp") == ["mlp", "1990 100.0 %", "4  50.0 %"]
    assert row(lines, "matching") == ["matching", "-", "1  12.5 %"]
    assert row(lines, "other") == ["other", "-", "1  12.5 %"]
    assert "reduction in full: none" in lines
    assert (
        "reduction in reduced (matching and merging): 3 of 8 ms, 37.5 %, in 2 of 4 kernels; about 2 ms, 33.3 %, "
        "without the profiler's own 500.0 us a kernel"
    ) in lines
    assert (
        "* shares, not speeds; a query under the profiler: full 2100 instead of 2000 ms, reduced 9 instead of 6 ms"
        in lines
    )
    assert "* reduced: counted where their neighbours are: 2 ms in kernels that the optimiser put in (1)" in lines
    assert "reduced, batch 8, ms by block" in lines
    assert "full, batch 8, by operator" in lines
    assert not any("most nodes carry no names" in line for line in lines)


def test_a_file_without_names_says_so() -> None:
    nameless = Profile("full", 8, 5, 2.0, 2.0, (Kernel("n", "A", 1.0),), (Located(Place("", Kind.OTHER)),))
    lines = shown(replace(RESULT, profiles=(nameless,)))
    assert "* full: most nodes carry no names of modules, so they count as 'other'" in lines
