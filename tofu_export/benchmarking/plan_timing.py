"""Time queries of an engine as trtexec does: on streams, between events, with or without copies and CUDA graphs.

Polygraphy runs an engine correctly but cannot time it: it does not separate kernels from copies. So timed engines are
run here through TensorRT's own interface. Nothing of this was run on a GPU so far; the tests use stand-ins.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tofu_export.artifact.feeds import as_asked
from tofu_export.benchmarking.benchmark import Bound
from tofu_export.engines.running.cudart import Cudart
from tofu_export.engines.running.engine_session import EngineSession
from tofu_export.engines.running.gpu_times import GpuOptions, QueryTimes
from tofu_export.errors import EngineBuildError
from tofu_export.system.ort import TensorSpec

__all__ = ["TimedPlan"]

Array = npt.NDArray[Any]

_WARM_RUNS = 2
"""Runs before a graph is captured: TensorRT loads kernels and allocates in the first one."""


@dataclass(frozen=True)
class _Tensor:
    """Input or output: its addresses on the device and on the host, and its size in bytes."""

    device: int
    host: int
    size: int


@dataclass
class _Lane:
    """Everything that one stream needs. Events: start, inputs copied, kernels done, outputs copied."""

    context: Any
    stream: int
    events: list[int] = field(default_factory=list)
    inputs: list[_Tensor] = field(default_factory=list)
    outputs: list[_Tensor] = field(default_factory=list)
    graph: int | None = None


class TimedPlan:
    """Loaded engine whose bound calls return the times of their queries (`backends.Session`).

    Args:
        session: the engine.
        options: options of the timing.
        cudart: the CUDA runtime.
    """

    def __init__(self, session: EngineSession, options: GpuOptions, cudart: Cudart) -> None:
        self._session = session
        self._options = options
        self._cuda = cudart
        self._lanes: list[_Lane] = []

    @property
    def label(self) -> str:
        """Name in messages."""
        return self._session.label

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """Inputs of `run`, by name."""
        return self._session.inputs

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """Outputs of `run`, by name."""
        return self._session.outputs

    @property
    def metadata(self) -> Mapping[str, str]:
        """Metadata from the sidecar of the engine."""
        return self._session.metadata

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the engine and return all outputs by name, not timed."""
        return self._session.run(feeds)

    def bind(self, feeds: Mapping[str, Array]) -> Bound:
        """Return a function that puts one query on each stream and waits for all; resources of earlier ones are freed.

        Raises:
            EngineBuildError: TensorRT or CUDA fails.
        """
        self._release()
        ready = {name: np.ascontiguousarray(feed) for name, feed in as_asked(feeds, self.inputs).items()}
        for _ in range(self._options.streams):
            self._lanes.append(self._lane(ready))
        lanes = tuple(self._lanes)
        if self._options.cuda_graph:
            remedy = "use larger batches, or more streams"
        else:
            remedy = "use --cuda-graph, larger batches, or more streams"
        return Bound(
            lambda: self._query(lanes), queries=len(lanes), notes=(f"timed with {self._options}",), remedy=remedy
        )

    def _query(self, lanes: tuple[_Lane, ...]) -> list[QueryTimes]:
        cuda, transfers = self._cuda, self._options.transfers
        enqueued = []
        for lane in lanes:
            start, copied, computed, end = lane.events
            cuda.record(start, lane.stream)
            if transfers:
                for tensor in lane.inputs:
                    cuda.to_device(tensor.device, tensor.host, tensor.size, lane.stream)
            cuda.record(copied, lane.stream)
            begin = time.perf_counter_ns()
            self._enqueue(lane)
            enqueued.append((time.perf_counter_ns() - begin) / 1e6)
            cuda.record(computed, lane.stream)
            if transfers:
                for tensor in lane.outputs:
                    cuda.to_host(tensor.host, tensor.device, tensor.size, lane.stream)
            cuda.record(end, lane.stream)
        for lane in lanes:
            cuda.synchronize(lane.stream)
        return [self._times(lane, enqueue_ms) for lane, enqueue_ms in zip(lanes, enqueued, strict=True)]

    def _times(self, lane: _Lane, enqueue_ms: float) -> QueryTimes:
        start, copied, computed, end = lane.events
        elapsed = self._cuda.elapsed_ms
        if not self._options.transfers:  # trtexec says 0 as well
            return QueryTimes(enqueue_ms, 0.0, elapsed(copied, computed), 0.0)
        return QueryTimes(enqueue_ms, elapsed(start, copied), elapsed(copied, computed), elapsed(computed, end))

    def _enqueue(self, lane: _Lane) -> None:
        if lane.graph is not None:
            self._cuda.launch(lane.graph, lane.stream)
        elif not lane.context.execute_async_v3(lane.stream):
            raise EngineBuildError(f"{self._session.label} fails when it runs: TensorRT cannot enqueue its kernels")

    def _lane(self, feeds: Mapping[str, Array]) -> _Lane:
        """Return a context with its memory, warmed up, and with its graph captured if asked for."""
        context, captures = self._context()
        lane = _Lane(context, self._cuda.stream())
        try:
            self._fill(lane, feeds)
            for _ in range(_WARM_RUNS):
                self._enqueue(lane)
            self._cuda.synchronize(lane.stream)
            if self._options.cuda_graph and not captures:
                self._cuda.begin_capture(lane.stream)
                self._enqueue(lane)
                lane.graph = self._cuda.end_capture(lane.stream)
        except BaseException:
            self._free(lane)
            raise
        return lane

    def _fill(self, lane: _Lane, feeds: Mapping[str, Array]) -> None:
        """Create events, and memory of all inputs and outputs; copy the inputs to the device."""
        lane.events += [self._cuda.event() for _ in range(4)]
        for name, feed in feeds.items():
            self._must(lane.context.set_input_shape(name, tuple(feed.shape)), f"{name} {list(feed.shape)}")
        for name, feed in feeds.items():
            tensor = self._tensor(lane, lane.inputs, name, feed.nbytes)
            ctypes.memmove(tensor.host, feed.ctypes.data, feed.nbytes)
            self._cuda.to_device(tensor.device, tensor.host, tensor.size, lane.stream)
        for name, spec in self._session.outputs.items():
            shape = tuple(lane.context.get_tensor_shape(name))
            if min(shape, default=1) < 0:
                raise EngineBuildError(
                    f"output {name} of {self._session.label} has a size that depends on the numbers ({shape}): "
                    "such plans cannot be timed"
                )
            self._tensor(lane, lane.outputs, name, math.prod(shape) * spec.dtype.itemsize)

    def _context(self) -> tuple[Any, bool]:
        """Return an execution context, and whether it captures graphs by itself, as in TensorRT-RTX.

        TensorRT-RTX also compiles kernels for the shapes that it gets. That must happen here, not while timing.
        """
        engine, trt = self._session.engine, self._session.trt
        if not hasattr(trt, "CudaGraphStrategy"):
            return engine.create_execution_context(), False
        config = engine.create_runtime_config()
        wanted = self._options.cuda_graph
        strategy = trt.CudaGraphStrategy
        config.cuda_graph_strategy = strategy.WHOLE_GRAPH_CAPTURE if wanted else strategy.DISABLED
        config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        return engine.create_execution_context(config), True

    def _tensor(self, lane: _Lane, tensors: list[_Tensor], name: str, size: int) -> _Tensor:
        tensor = _Tensor(self._cuda.allocate(size), self._cuda.allocate_host(size), size)
        tensors.append(tensor)
        self._must(lane.context.set_tensor_address(name, tensor.device), name)
        return tensor

    def _must(self, done: bool, what: str) -> None:
        if not done:
            raise EngineBuildError(
                f"{self._session.label} does not take {what}: is it outside of the shapes that it was built for?"
            )

    def _release(self) -> None:
        while self._lanes:
            self._free(self._lanes.pop())

    def _free(self, lane: _Lane) -> None:
        if lane.graph is not None:
            self._cuda.free_graph(lane.graph)
        for tensor in (*lane.inputs, *lane.outputs):
            self._cuda.free(tensor.device)
            self._cuda.free_host(tensor.host)
        for event in lane.events:
            self._cuda.free_event(event)
        self._cuda.free_stream(lane.stream)
