"""Stands in for libcudart and for a plan in TensorRT: a clock that only kernels and copies move, and real memory.

A copy takes 1 ms, the kernels 4 ms, a graph 3 ms. Everything that is made has to be given back.
"""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """The number in a ctypes value."""
    return getattr(value, "value", value)


class FakeCuda:
    """The functions of libcudart that are used, by their names and signatures."""

    def __init__(self) -> None:
        self.now = 0.0
        self.made: dict[int, Any] = {}
        self.calls: list[str] = []
        self.capturing: list[int] = []
        self.fails: set[str] = set()
        self.cudaGetErrorString = SimpleNamespace(restype=None)

    def __getattribute__(self, name: str) -> Any:
        if name == "cudaGetErrorString":

            def describe(status: int) -> bytes:
                return b"out of memory" if status == 2 else b"?"

            return describe
        found = object.__getattribute__(self, name)
        if not name.startswith("cuda"):
            return found

        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if name in self.fails:
                return 2
            found(*arguments)
            return 0

        return call

    def _new(self, target: Any, value: Any) -> None:
        address = ctypes.addressof(value) if isinstance(value, ctypes.Array) else 1000 + len(self.calls)
        self.made[address] = value
        target._obj.value = address

    def _gone(self, address: Any) -> None:
        del self.made[plain(address)]

    def cudaMalloc(self, target: Any, size: Any) -> None:
        self._new(target, ctypes.create_string_buffer(plain(size)))

    def cudaMallocHost(self, target: Any, size: Any) -> None:
        self._new(target, ctypes.create_string_buffer(plain(size)))

    def cudaFree(self, address: Any) -> None:
        self._gone(address)

    def cudaFreeHost(self, address: Any) -> None:
        self._gone(address)

    def cudaStreamDestroy(self, stream: Any) -> None:
        self._gone(stream)

    def cudaEventDestroy(self, event: Any) -> None:
        self._gone(event)

    def cudaGraphExecDestroy(self, graph: Any) -> None:
        self._gone(graph)

    def cudaStreamCreateWithFlags(self, target: Any, flags: Any) -> None:
        assert plain(flags) == 1
        self._new(target, "stream")

    def cudaStreamSynchronize(self, stream: Any) -> None:
        assert self.made[plain(stream)] == "stream"

    def cudaEventCreate(self, target: Any) -> None:
        self._new(target, 0.0)

    def cudaEventRecord(self, event: Any, stream: Any) -> None:
        assert self.made[plain(stream)] == "stream"
        self.made[plain(event)] = self.now

    def cudaEventElapsedTime(self, target: Any, start: Any, end: Any) -> None:
        target._obj.value = self.made[plain(end)] - self.made[plain(start)]

    def cudaMemcpyAsync(self, to: Any, source: Any, size: Any, kind: Any, stream: Any) -> None:
        assert plain(kind) in (1, 2)
        ctypes.memmove(plain(to), plain(source), plain(size))
        self.now += 1

    def cudaStreamBeginCapture(self, stream: Any, mode: Any) -> None:
        self.capturing.append(plain(stream))

    def cudaStreamEndCapture(self, stream: Any, target: Any) -> None:
        self.capturing.remove(plain(stream))
        target._obj.value = 7

    def cudaGraphInstantiateWithFlags(self, target: Any, graph: Any, flags: Any) -> None:
        assert plain(graph) == 7
        self._new(target, "graph")

    def cudaGraphDestroy(self, graph: Any) -> None:
        assert plain(graph) == 7

    def cudaGraphLaunch(self, graph: Any, stream: Any) -> None:
        assert self.made[plain(graph)] == "graph"
        self.now += 3


class FakeContext:
    """y = 2 x, for x [at most 8, 4] float32."""

    def __init__(self, cuda: FakeCuda, config: Any = None) -> None:
        self.cuda, self.config = cuda, config
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()
        self.enqueued = 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "x"
        self.shape = shape
        return shape[0] <= 8

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self.enqueued += 1
        if stream not in self.cuda.capturing:
            count = int(np.prod(self.shape))
            kind = ctypes.c_float * count
            source, target = (np.frombuffer(kind.from_address(self.addresses[name]), np.float32) for name in "xy")
            target[:] = 2 * source
            self.cuda.now += 4
        return True


class FakeEngine:
    """What makes contexts."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.contexts: list[FakeContext] = []

    def create_runtime_config(self) -> Any:
        return SimpleNamespace()

    def create_execution_context(self, config: Any = None) -> FakeContext:
        self.contexts.append(FakeContext(self.cuda, config))
        return self.contexts[-1]


RTX_MODULE = SimpleNamespace(
    CudaGraphStrategy=SimpleNamespace(DISABLED="disabled", WHOLE_GRAPH_CAPTURE="whole"),
    DynamicShapesKernelSpecializationStrategy=SimpleNamespace(EAGER="eager"),
)
"""The module of TensorRT-RTX, as far as timing looks at it."""
