"""A PyTorch model on its device for `gpu_torch.py`: eager or compiled, timed by CUDA events, profiled.

Nothing here needs more than PyTorch, timm and a CPU; without a GPU the host's clock takes the times and operators stand
for kernels.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from itertools import chain
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType  # type: ignore[attr-defined]  # documented there, not in its `__all__`
from torch.profiler import ProfilerActivity, record_function

from tofu_export import patch
from tofu_export.benchmarking.benchmark import Bound, Feeds
from tofu_export.engines.running.gpu_times import QueryTimes
from tofu_export.errors import ExportError
from tofu_export.planning.plan import Plan

__all__ = ["Kernels", "TorchRunner", "float32_products", "kernels_of", "reduced_on", "weights_on"]

COMPILER = "inductor"
COMPILE_MODE = "reduce-overhead"  # with CUDA graphs
PROFILED_QUERIES = 3
QUERY, REDUCTION = "tofu.query", "tofu.reduction"


@dataclass(frozen=True)
class Kernels:
    """Kernels of one query. On a CPU these are operators.

    Attributes:
        reduction: number of those that match and merge tokens. The mean of the keys over the heads and the logarithm of
            the sizes are not among them.
        every: number of all.
        reduction_ms: time of the first, in milliseconds.
        every_ms: time of all.
    """

    reduction: int
    every: int
    reduction_ms: float
    every_ms: float

    @property
    def share(self) -> float:
        """The reduction's part of the time, 0 to 1."""
        return self.reduction_ms / self.every_ms if self.every_ms else 0.0


@dataclass
class TorchRunner:
    """A model on its device, eager or compiled, for `run_benchmark`; inputs stay on the device.

    Attributes:
        model: in its precision, on the device.
        device: cpu or cuda.
        compiled: by torch.compile, with CUDA graphs.
        peak_gb: weights, input and the most that a query allocates, in 10^9 bytes; known on a GPU once bound.
    """

    model: nn.Module
    device: str
    compiled: bool
    peak_gb: float | None = None
    _call: Callable[[], Tensor] = field(init=False)

    def bind(self, feeds: Feeds) -> Bound:
        """A call that runs the model on these feeds, compiled when this returns; on a GPU it gives the GPU's times.

        Raises:
            ExportError: outputs are not finite.
        """
        (feed,) = feeds.values()
        pixels = torch.from_numpy(feed).to(self.device, next(self.model.parameters()).dtype)
        run: Any = self.model
        if self.compiled:
            run = torch.compile(run, backend=COMPILER, mode=COMPILE_MODE, dynamic=False, fullgraph=True)

        @torch.inference_mode()
        def call() -> Tensor:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]  # torch types it partly
            output: Tensor = run(pixels)
            return output

        if not call().isfinite().all():  # compiles
            raise ExportError("outputs are not finite: expected numbers; try another precision")
        self._call = call
        if self.device == "cpu":
            return Bound(call)
        self.peak_gb = self._peak(pixels.nbytes)
        remedy = "larger batches, or torch-compile, which launches all kernels together"
        return Bound(lambda: [timed_on_gpu(call)], remedy=remedy)

    def _peak(self, input_bytes: int) -> float:
        """Of the second query, in which CUDA graphs are recorded, and the third."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        for _ in range(2):
            self._call()
        torch.cuda.synchronize()
        weights = sum(parameter.nbytes for parameter in self.model.parameters())
        return (torch.cuda.max_memory_allocated() - before + weights + input_bytes) / 1e9

    def profile(self) -> Kernels:
        """The kernels of one query, run eagerly on what the model was bound to."""
        fused = import_module("tofu_export.patch.fused")
        reduce = fused.reduce_state

        def marked(*args: Any, **kwargs: Any) -> Any:
            with record_function(REDUCTION):
                return reduce(*args, **kwargs)

        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.device == "cuda" else [])]
        with mock.patch.object(fused, "reduce_state", marked), torch.profiler.profile(activities=activities) as taken:
            for _ in range(PROFILED_QUERIES):
                with record_function(QUERY):
                    self._call()
            if self.device == "cuda":
                torch.cuda.synchronize()
        return kernels_of(taken.events() or [], on_gpu=self.device == "cuda")


def kernels_of(events: Any, *, on_gpu: bool) -> Kernels:
    """What the profiler's events say of a query: medians over those that they cover."""
    queries = [
        list(_kernels_below(event, on_gpu, within=False))
        for event in events
        if event.name == QUERY and event.device_type == DeviceType.CPU
    ]
    own = [[us for us, within in query if within] for query in queries]
    every = [[us for us, _ in query] for query in queries]
    return Kernels(
        *(round(statistics.median(map(len, taken))) for taken in (own, every)),
        *(statistics.median(map(sum, taken)) / 1e3 for taken in (own, every)),
    )


def _kernels_below(event: Any, on_gpu: bool, within: bool) -> Iterator[tuple[float, bool]]:
    """Kernels launched under an event: the microseconds of each, and whether the reduction launched it.

    On a CPU operators, each without those that it calls. The range that marks the reduction is no operator, and what
    the profiler attaches to it itself is all of its time on the GPU.
    """
    for child in event.cpu_children:
        if child.name == REDUCTION:
            yield from _kernels_below(child, on_gpu, within=True)
            continue
        each = [kernel.duration for kernel in child.kernels] if on_gpu else [child.self_cpu_time_total]
        yield from ((us, within) for us in each)
        yield from _kernels_below(child, on_gpu, within)


def timed_on_gpu(call: Callable[[], object]) -> QueryTimes:
    """Run it between two CUDA events; the pauses in which the GPU waits for the host count."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]  # as above
    begin = time.perf_counter_ns()
    start.record()
    call()
    end.record()
    enqueue_ms = (time.perf_counter_ns() - begin) / 1e6
    end.synchronize()
    return QueryTimes(enqueue_ms, 0.0, start.elapsed_time(end), 0.0)


@contextmanager
def float32_products(tf32: bool) -> Iterator[None]:
    """Products and convolutions of float32 in TF32, or not, as long as this lasts."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def weights_on(model: nn.Module, device: str, dtype: torch.dtype) -> dict[int, Tensor]:
    """Copies of parameters and buffers there and in that type, by the identity of each."""

    def copied(tensor: Tensor) -> Tensor:
        there = tensor.detach().to(device, dtype if tensor.is_floating_point() else tensor.dtype)
        return nn.Parameter(there, requires_grad=False) if isinstance(tensor, nn.Parameter) else there

    return {id(tensor): copied(tensor) for tensor in chain(model.parameters(), model.buffers())}


def reduced_on(model: nn.Module, plan: Plan, weights: Mapping[int, Tensor]) -> nn.Module:
    """A copy of the model with these weights, reduced by the plan; the model stays as it is."""
    if plan.removes:
        patch.apply(model, plan)
    try:
        return copy.deepcopy(model, dict(weights))
    finally:
        patch.remove(model)
