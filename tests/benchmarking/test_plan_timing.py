"""How a plan is timed: what is copied when, what is captured, what is given back. CUDA and the plan are stand-ins."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.engines.fake_cuda import RTX_MODULE, FakeCuda, FakeEngine
from tofu_export.benchmarking.benchmark import Bound, Contender, Rules, run_benchmark
from tofu_export.benchmarking.plan_timing import TimedPlan
from tofu_export.engines.running.cudart import Cudart, open_cudart
from tofu_export.engines.running.engine_session import EngineSession
from tofu_export.engines.running.gpu_times import GpuOptions, QueryTimes, bound_notes
from tofu_export.errors import BackendMissingError, EngineBuildError, OptionError
from tofu_export.system.ort import TensorSpec


@pytest.fixture
def cuda() -> FakeCuda:
    return FakeCuda()


def timed(cuda: FakeCuda, options: GpuOptions | None = None, trt: Any = None) -> tuple[TimedPlan, FakeEngine]:
    engine, spec = FakeEngine(cuda), TensorSpec(np.dtype(np.float32), (None, 4))
    session = EngineSession("a.engine", "ACME", {"x": spec}, {"y": spec}, {}, None, engine, trt or SimpleNamespace())
    return TimedPlan(session, options or GpuOptions(), Cudart(cuda)), engine


def feeds(rows: int = 2) -> dict[str, np.ndarray]:
    return {"x": np.arange(4 * rows, dtype=np.float64).reshape(rows, 4)}


def queries(bound: Bound) -> list[QueryTimes]:
    found = bound.call()
    assert isinstance(found, list)
    return found


def output(cuda: FakeCuda, rows: int = 2) -> np.ndarray:
    """What lies in the host's memory for y, the last buffer that was made."""
    buffers = [value for value in cuda.made.values() if isinstance(value, ctypes.Array)]
    return np.frombuffer(buffers[-1], np.float32)[: 4 * rows].reshape(rows, 4)


def test_a_query_is_copy_kernels_copy(cuda: FakeCuda) -> None:
    plan, engine = timed(cuda)
    bound = plan.bind(feeds())
    (query,) = queries(bound)
    assert query[1:] == (1, 4, 1)
    assert query.latency_ms == 6
    assert 0 < query.enqueue_ms < 100
    np.testing.assert_array_equal(output(cuda), 2 * feeds()["x"])
    assert bound.notes == ("timed with no CUDA graph, transfers included, 1 stream",)
    assert engine.contexts[0].enqueued == 2 + 1  # warm runs


def test_without_transfers_nothing_is_copied(cuda: FakeCuda) -> None:
    bound = timed(cuda, GpuOptions(transfers=False))[0].bind(feeds())
    copies = cuda.calls.count("cudaMemcpyAsync")
    (query,) = queries(bound)
    assert query[1:] == (0, 4, 0)
    assert cuda.calls.count("cudaMemcpyAsync") == copies == 1  # the inputs, once


def test_a_graph_is_captured_once_and_launched(cuda: FakeCuda) -> None:
    plan, engine = timed(cuda, GpuOptions(cuda_graph=True))
    bound = plan.bind(feeds())
    assert cuda.capturing == []
    assert [queries(bound)[0].compute_ms for _ in range(3)] == [3, 3, 3]
    assert cuda.calls.count("cudaStreamBeginCapture") == 1
    assert engine.contexts[0].enqueued == 2 + 1
    assert "larger batches" in bound.remedy
    assert "--cuda-graph" not in bound.remedy


@pytest.mark.parametrize(("graph", "strategy"), [(True, "whole"), (False, "disabled")])
def test_rtx_captures_by_itself(graph: bool, strategy: str, cuda: FakeCuda) -> None:
    plan, engine = timed(cuda, GpuOptions(cuda_graph=graph), RTX_MODULE)
    queries(plan.bind(feeds()))
    config = engine.contexts[0].config
    assert config.cuda_graph_strategy == strategy
    assert config.dynamic_shapes_kernel_specialization_strategy == "eager"
    assert "cudaStreamBeginCapture" not in cuda.calls


def test_streams_each_have_a_context(cuda: FakeCuda) -> None:
    plan, engine = timed(cuda, GpuOptions(streams=3))
    bound = plan.bind(feeds())
    assert bound.queries == 3
    assert len(queries(bound)) == 3
    assert len({context.addresses["x"] for context in engine.contexts}) == 3
    assert len([value for value in cuda.made.values() if value == "stream"]) == 3


@pytest.mark.parametrize("options", [GpuOptions(), GpuOptions(cuda_graph=True, streams=2)])
def test_what_was_bound_before_is_given_back(options: GpuOptions, cuda: FakeCuda) -> None:
    plan, _ = timed(cuda, options)
    plan.bind(feeds())
    before = len(cuda.made)
    plan.bind(feeds(8))
    assert len(cuda.made) == before


@pytest.mark.parametrize("function", ["cudaMallocHost", "cudaEventCreate", "cudaStreamSynchronize", "cudaMemcpyAsync"])
def test_a_failure_is_said_and_leaves_nothing(function: str, cuda: FakeCuda) -> None:
    cuda.fails.add(function)
    with pytest.raises(EngineBuildError, match=rf"CUDA fails in {function}: out of memory \(2\)"):
        timed(cuda)[0].bind(feeds())
    left = [value for value in cuda.made.values() if not isinstance(value, (ctypes.Array, float))]
    assert left == []


def test_a_shape_outside_of_the_profile(cuda: FakeCuda) -> None:
    with pytest.raises(EngineBuildError, match=r"a\.engine does not take x \[9, 4\]: is it outside"):
        timed(cuda)[0].bind(feeds(9))
    assert cuda.made == {}


def test_an_output_whose_size_is_not_known(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.engines.fake_cuda.FakeContext.get_tensor_shape", lambda *_: (-1, 4))
    with pytest.raises(EngineBuildError, match="depends on the numbers"):
        timed(cuda)[0].bind(feeds())
    assert cuda.made == {}


@pytest.mark.parametrize("baseline", ["full", "cpu"])
def test_rows_have_trtexecs_fields(baseline: str, cuda: FakeCuda) -> None:
    plan, _ = timed(cuda, GpuOptions(streams=2))

    class Runner:
        device = "ACME"

        def bind(self, own: Any) -> Bound:
            return plan.bind(own)

    class Slow:
        device = "host"

        def bind(self, own: Any) -> Any:
            return lambda: None

    contenders = [Contender("full", Path("full.engine")), Contender("cpu", Path("cpu.onnx"))]
    full, cpu = run_benchmark(
        contenders,
        batches=(2,),
        make_feeds=lambda batch: feeds(batch),
        open_runner=lambda who, _: Runner() if who.name == "full" else Slow(),
        rules=Rules(0, 0, 4),
        baseline=baseline,
    )
    assert (full.h2d_ms, full.gpu_compute_ms, full.d2h_ms) == (1, 4, 1)
    assert full.iterations == 8
    assert full.throughput_qps == pytest.approx(8 / full.walltime_s)
    assert (full.latency_ms.median, full.cv_percent) == (6, 0)  # trtexec's: the sum of the three
    assert (cpu.enqueue_ms, cpu.gpu_compute_ms, cpu.iterations) == (None, None, 4)
    assert full.speedup_vs_full is not None and cpu.speedup_vs_full is not None
    if baseline == "full":
        assert full.speedup_vs_full == 1
        assert cpu.speedup_vs_full > 1  # by what the host waits, of both
    else:
        assert full.speedup_vs_full < 1


class TestNotes:
    def test_quiet(self) -> None:
        assert bound_notes(QueryTimes(0.5, 1, 1, 1), remedy="r") == ()

    def test_enqueue_bound(self) -> None:
        (note,) = bound_notes(QueryTimes(0.81, 0, 1, 0), remedy="do this")
        assert note.startswith("the host takes 0.81 ms to enqueue")
        assert note.endswith("do this")

    def test_bound_by_copies(self) -> None:
        assert [note.split(" take")[0] for note in bound_notes(QueryTimes(0, 2, 1, 3), remedy="")] == [
            "copies to the device", "copies from the device",
        ]  # fmt: skip


@pytest.mark.parametrize("streams", [0, -1, 65])
def test_streams_that_make_no_sense(streams: int) -> None:
    with pytest.raises(OptionError, match="--streams"):
        GpuOptions(streams=streams)


def test_the_real_library_answers_or_is_said_to_be_missing() -> None:
    """It has every function that is used; without a driver the first call that needs one says so."""
    try:
        cuda = open_cudart()
    except BackendMissingError as error:
        assert "libcudart" in str(error)
        return
    names = [name for name in vars(FakeCuda) if name.startswith("cuda")]
    assert [name for name in names if not hasattr(cuda._library, name)] == []
    try:
        cuda.free(cuda.allocate(16))
    except EngineBuildError as error:
        assert "CUDA fails in cudaMalloc" in str(error)
