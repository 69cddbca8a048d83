"""The benchmark's statistics and order of runs, on a clock that only moves when told to."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tofu_export.benchmarking._pace import CAP_FACTOR
from tofu_export.benchmarking.backends import open_contender
from tofu_export.benchmarking.benchmark import Contender, Progress, Rules, Runner, run_benchmark
from tofu_export.errors import OptionError
from tofu_export.report.measurement import Measurement
from tofu_export.system.environment import cpu_name

MS = 1_000_000


class World:
    """A clock in nanoseconds, and runners that take the milliseconds that they are given, over and over."""

    def __init__(self, **latencies_ms: float | Iterable[float]) -> None:
        self.now = 0
        self.runs: list[str] = []
        self.opened: list[tuple[str, int | None]] = []
        self.bound: list[tuple[str, tuple[int, ...]]] = []
        self._latencies: dict[str, Iterator[float]] = {
            name: itertools.cycle([value] if isinstance(value, (int, float)) else value)
            for name, value in latencies_ms.items()
        }
        self.contenders = [Contender(name, Path(f"{name}.onnx"), "fake") for name in latencies_ms]

    def clock(self) -> int:
        return self.now

    def open(self, contender: Contender, threads: int | None) -> Runner:
        self.opened.append((contender.name, threads))
        return FakeRunner(self, contender.name)

    def take(self, name: str) -> None:
        self.runs.append(name)
        self.now += round(next(self._latencies[name]) * MS)

    def bench(self, **options: Any) -> tuple[Measurement, ...]:
        """One batch size, ten rounds and no time limits, unless told otherwise. A warm-up is one run each."""
        named = {key: options.pop(key) for key in ("warmup_ms", "min_seconds", "min_iterations") if key in options}
        settings: dict[str, Any] = {"batches": (1,), "make_feeds": feeds, **options}
        rules = Rules(**{"warmup_ms": 0, "min_seconds": 0, **named})
        return run_benchmark(self.contenders, open_runner=self.open, clock=self.clock, rules=rules, **settings)


class FakeRunner:
    device = "fake device"

    def __init__(self, world: World, name: str) -> None:
        self._world, self._name = world, name

    def bind(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Callable[[], object]:
        self._world.bound.append((self._name, feeds["x"].shape))
        return lambda: self._world.take(self._name)


def feeds(batch: int) -> dict[str, np.ndarray[Any, Any]]:
    return {"x": np.ones((batch, 3), np.float32)}


class TestFigures:
    def test_throughput_counts_own_time_only(self) -> None:
        slow, fast = World(slow=8.0, fast=2.0).bench(batches=(4,), min_iterations=10)
        assert slow.walltime_s == pytest.approx(0.08)
        assert fast.walltime_s == pytest.approx(0.02)
        assert fast.throughput_qps == pytest.approx(500)
        assert fast.images_per_sec == pytest.approx(2000)
        assert (slow.iterations, fast.iterations) == (10, 10)

    def test_device_times_are_unknown(self) -> None:
        (only,) = World(only=1.0).bench()
        assert (only.enqueue_ms, only.h2d_ms, only.gpu_compute_ms, only.d2h_ms) == (None, None, None, None)
        assert (only.artifact, only.backend, only.device, only.batch) == ("only", "fake", "fake device", 1)

    def test_speedup_is_the_ratio_of_medians(self) -> None:
        # The first run of each is its warm-up, so full's samples are 10, 10, 90, 10 and reduced's 5, 5, 5, 25.
        world = World(full=[1.0, 10, 10, 90, 10], reduced=[1.0, 5, 5, 5, 25])
        full, reduced = world.bench(min_iterations=4, baseline="full")
        assert reduced.speedup_vs_full == pytest.approx(2)
        assert reduced.speedup_iqr == pytest.approx((0.4, 2))  # rounds: 2, 2, 18, 0.4; the means would say 3
        assert full.speedup_vs_full == 1
        assert full.speedup_iqr == (1, 1)

    def test_noise_that_hits_a_round_cancels_in_its_ratio(self) -> None:
        load = [1.0, 1.0, 3.0, 1.0, 2.0, 7.0, 1.0]
        world = World(full=[20 * factor for factor in load], reduced=[10 * factor for factor in load])
        _, reduced = world.bench(min_iterations=13, baseline="full")
        assert reduced.speedup_vs_full == pytest.approx(2)
        assert reduced.speedup_iqr == pytest.approx((2, 2))

    def test_no_speedup_without_a_baseline(self) -> None:
        for found in World(one=1.0, two=2.0).bench():
            assert (found.speedup_vs_full, found.speedup_iqr) == (None, None)

    def test_variation_by_hand(self) -> None:
        (found,) = World(only=[1.0, 3.0]).bench(min_iterations=4)  # mean 2, deviation 1
        assert found.cv_percent == pytest.approx(50)
        assert [note for note in found.notes if "coefficient of variation = 50%" in note]

    def test_a_steady_latency_needs_no_note(self) -> None:
        (found,) = World(only=[10.0, 10.4]).bench(min_iterations=10)  # 1.96 %
        assert found.notes == ()

    def test_a_clock_that_stands_still_divides_by_nothing(self) -> None:
        (found,) = World(only=0.0).bench()
        assert found.throughput_qps == pytest.approx(1e9)

    @given(
        st.lists(st.floats(0.001, 1000), min_size=1, max_size=8),
        st.lists(st.floats(0.001, 1000), min_size=1, max_size=8),
        st.integers(1, 20),
    )
    def test_consistent_whatever_the_samples(self, full: list[float], reduced: list[float], rounds: int) -> None:
        for found in World(full=full, reduced=reduced).bench(min_iterations=rounds, baseline="full"):
            assert found.iterations == rounds
            assert found.throughput_qps * found.walltime_s == pytest.approx(rounds)
            assert found.latency_ms.mean * rounds == pytest.approx(found.walltime_s * 1e3)
            assert found.speedup_iqr is not None
            assert found.speedup_iqr[0] <= found.speedup_iqr[1]
            assert json.loads(json.dumps(found.to_dict())) == found.to_dict()


class TestOrder:
    def test_rounds_are_interleaved_and_the_first_changes(self) -> None:
        world = World(a=1.0, b=1.0, c=1.0)
        world.bench(min_iterations=4)
        assert "".join(world.runs) == "abc" + "abc" + "bca" + "cab" + "abc"

    def test_all_are_opened_once_and_first(self) -> None:
        world = World(a=1.0, b=1.0)
        world.bench(batches=(1, 8), threads=2)
        assert world.opened == [("a", 2), ("b", 2)]
        assert world.bound == [("a", (1, 3)), ("b", (1, 3)), ("a", (8, 3)), ("b", (8, 3))]

    def test_each_can_have_feeds_of_its_own(self) -> None:
        world = World(a=1.0, b=1.0)
        world.bench(batches=(2,), make_feeds={"a": feeds, "b": lambda batch: {"x": np.ones((batch, 5))}})
        assert world.bound == [("a", (2, 3)), ("b", (2, 5))]

    def test_results_come_by_batch_and_then_as_given(self) -> None:
        found = World(b=1.0, a=1.0).bench(batches=(8, 1))
        assert [(item.batch, item.artifact) for item in found] == [(8, "b"), (8, "a"), (1, "b"), (1, "a")]

    def test_warms_up_by_time(self) -> None:
        world = World(slow=30.0, fast=4.0)
        world.bench(warmup_ms=10, min_iterations=1)
        assert world.runs[:4] == ["slow", "fast", "fast", "fast"]

    def test_warm_up_is_not_measured(self) -> None:
        (found,) = World(only=[500.0, *([1.0] * 10)]).bench(min_iterations=10)
        assert found.latency_ms.max == 1


class TestEnd:
    def test_goes_on_until_each_had_its_time(self) -> None:
        slow, fast = World(slow=20.0, fast=10.0).bench(min_seconds=0.5, min_iterations=3)
        assert fast.iterations == slow.iterations == 50
        assert (fast.notes, slow.notes) == ((), ())

    def test_least_iterations_win_over_time(self) -> None:
        (found,) = World(only=60_000.0).bench(min_seconds=0.1, min_iterations=7)
        assert found.iterations == 7

    def test_a_cap_ends_it_where_speeds_differ_much(self) -> None:
        slow, fast = World(slow=999.0, fast=1.0).bench(min_seconds=3, min_iterations=5)
        assert fast.iterations == slow.iterations == 2 * 3 * CAP_FACTOR
        assert [note for note in fast.notes if "instead of 3 s" in note]
        assert slow.notes == ()

    def test_least_iterations_win_over_the_cap(self) -> None:
        slow, fast = World(slow=9999.0, fast=1.0).bench(min_seconds=1, min_iterations=9)
        assert slow.iterations == fast.iterations == 9


class TestProgress:
    def test_rises_to_one(self) -> None:
        told: list[Progress] = []
        World(a=60.0, b=60.0).bench(warmup_ms=60, min_iterations=20, on_progress=told.append)
        assert told[0] == Progress(1, "warm-up", 0, 0.0)
        assert told[-1] == Progress(1, "measure", 20, 1.0)
        fractions = [item.fraction for item in told]
        assert fractions == sorted(fractions)

    def test_is_told_rarely(self) -> None:
        told: list[Progress] = []
        World(a=1.0).bench(min_iterations=1000, on_progress=told.append)
        assert len(told) <= 12  # 1 s, ten times a second


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"baseline": "ful"}, "baseline 'ful' is not a contender, expected one of full, reduced"),
            ({"batches": ()}, "no batch size given"),
            ({"batches": (0,)}, "batch size 0, expected a whole number >= 1"),
            ({"batches": (8, 8)}, "batch sizes 8, 8 repeat"),
            ({"min_iterations": 0}, "min_iterations is 0"),
            ({"min_seconds": -1}, "min_seconds is -1"),
            ({"min_seconds": float("inf")}, "min_seconds is inf"),
            ({"warmup_ms": float("nan")}, "warmup_ms is nan"),
            ({"make_feeds": lambda _: feeds(1), "batches": (8,)}, r"make_feeds\(8\) gave x \[1, 3\]"),
            ({"make_feeds": lambda _: {}}, r"make_feeds\(1\) gave nothing"),
            ({"make_feeds": {"full": feeds, "reduced": lambda _: {}}}, r"make_feeds\(1\) gave nothing"),
        ],
    )
    def test_options_that_cannot_be_used(self, options: dict[str, Any], words: str) -> None:
        world = World(full=1.0, reduced=1.0)
        with pytest.raises(OptionError, match=words):
            world.bench(**options)
        assert world.runs == []

    def test_contenders_need_names_of_their_own(self) -> None:
        twins = [Contender("a", Path("1.onnx")), Contender("a", Path("2.onnx"))]
        with pytest.raises(OptionError, match="share the name a"):
            run_benchmark(twins, batches=(1,), make_feeds=feeds, open_runner=open_contender)
        with pytest.raises(OptionError, match="no contender"):
            run_benchmark([], batches=(1,), make_feeds=feeds, open_runner=open_contender)


def save_affine(path: Path, dtype: int = TensorProto.FLOAT, batch: int | str = "batch") -> Path:
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "affine",
        [helper.make_tensor_value_info("x", dtype, [batch, 3])],
        [helper.make_tensor_value_info("y", dtype, [batch, 3])],
        [helper.make_tensor("w", dtype, [3], [1.0, 2.0, 3.0])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


class TestOnnxruntime:
    """Real sessions. What they measure is not asserted, only that they are measured."""

    def test_measures_files(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        contenders = [
            Contender("full", save_affine(tmp_path / "a.onnx")),
            Contender("half", save_affine(tmp_path / "b.onnx", TensorProto.FLOAT16)),
        ]
        found = run_benchmark(
            contenders,
            batches=(1, 3),
            make_feeds=feeds,
            open_runner=open_contender,
            rules=Rules(1, 0.001, 5),
            threads=1,
            baseline="full",
        )
        assert capfd.readouterr() == ("", "")
        assert [(item.artifact, item.batch) for item in found] == [("full", 1), ("half", 1), ("full", 3), ("half", 3)]
        for item in found:
            assert item.backend == "ort-cpu"
            assert item.device == cpu_name()
            assert item.iterations >= 5
            assert 0 < item.latency_ms.min <= item.latency_ms.max
            assert item.speedup_vs_full is not None

    def test_report_entry_keeps_the_contract(self, tmp_path: Path) -> None:
        (found,) = run_benchmark(
            [Contender("full", save_affine(tmp_path / "a.onnx"))],
            batches=(2,),
            make_feeds=feeds,
            open_runner=open_contender,
            rules=Rules(0, 0),
            baseline="full",
        )
        entry = found.to_dict()
        assert list(entry) == [
            "artifact",
            "backend",
            "device",
            "batch",
            "throughput_qps",
            "images_per_sec",
            "latency_ms",
            "enqueue_ms",
            "h2d_ms",
            "gpu_compute_ms",
            "d2h_ms",
            "walltime_s",
            "speedup_vs_full",
            "speedup_iqr",
            "iterations",
            "cv_percent",
            "notes",
        ]
        assert list(entry["latency_ms"]) == ["min", "max", "mean", "median", "p90", "p95", "p99"]
        assert json.loads(json.dumps(entry)) == entry

    def test_a_file_of_fixed_batch_is_refused_at_another(self, tmp_path: Path) -> None:
        contender = Contender("fixed", save_affine(tmp_path / "a.onnx", batch=1))
        with pytest.raises(OptionError, match=r"shape \[8, 3\], expected float32\[1, 3\]"):
            run_benchmark([contender], batches=(8,), make_feeds=feeds, open_runner=open_contender)

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(OptionError, match="does not exist"):
            run_benchmark(
                [Contender("gone", tmp_path / "gone.onnx")], batches=(1,), make_feeds=feeds, open_runner=open_contender
            )

    def test_an_unknown_backend(self, tmp_path: Path) -> None:
        contender = Contender("a", save_affine(tmp_path / "a.onnx"), backend="abacus")
        with pytest.raises(OptionError, match="unknown backend 'abacus', expected one of ort-cpu"):
            run_benchmark([contender], batches=(1,), make_feeds=feeds, open_runner=open_contender)

    def test_imports_neither_torch_nor_timm_nor_onnxruntime(self) -> None:
        program = (
            "import sys; import tofu_export.benchmarking.benchmark, tofu_export.benchmarking.trtexec_text; "
            "print(sorted({'torch', 'timm', 'onnx', 'onnxruntime'} & set(sys.modules)))"
        )
        result = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
        )
        assert result.stdout.strip() == "[]"
