"""The functions of the CUDA runtime library that a timed query needs, through ctypes.

PyTorch has them too, but this package runs without it; Polygraphy has the allocations and copies, but neither events
nor graphs. The library is the one that Polygraphy found, so that a process has one.

Source: https://docs.nvidia.com/cuda/cuda-runtime-api. The names and signatures used here are those of CUDA 11.4 to 13.
"""

from __future__ import annotations

import ctypes
import importlib
from typing import Any

from tofu_export.errors import BackendMissingError, EngineBuildError

__all__ = ["Cudart", "open_cudart"]

_TO_DEVICE, _TO_HOST = 1, 2
_NON_BLOCKING = 1
_THREAD_LOCAL = 1


class Cudart:
    """Memory, streams, events and graphs. Addresses and handles are whole numbers.

    Args:
        library: libcudart, loaded.

    Raises:
        EngineBuildError: by every method, if CUDA reports an error.
    """

    def __init__(self, library: Any) -> None:
        self._library = library

    def allocate(self, size: int) -> int:
        """Memory on the device, `size` bytes of it."""
        return self._made("cudaMalloc", ctypes.c_size_t(max(size, 1)))

    def allocate_host(self, size: int) -> int:
        """Memory of the host that is not paged out, so that copies need no detour."""
        return self._made("cudaMallocHost", ctypes.c_size_t(max(size, 1)))

    def free(self, address: int) -> None:
        """Give back memory on the device."""
        self._call("cudaFree", ctypes.c_void_p(address))

    def free_host(self, address: int) -> None:
        """Give back memory of the host."""
        self._call("cudaFreeHost", ctypes.c_void_p(address))

    def stream(self) -> int:
        """A stream that does not wait for the default one."""
        return self._made("cudaStreamCreateWithFlags", ctypes.c_uint(_NON_BLOCKING))

    def free_stream(self, stream: int) -> None:
        """Give back a stream."""
        self._call("cudaStreamDestroy", ctypes.c_void_p(stream))

    def synchronize(self, stream: int) -> None:
        """Wait until a stream has nothing left to do."""
        self._call("cudaStreamSynchronize", ctypes.c_void_p(stream))

    def event(self) -> int:
        """A point in time to be noted."""
        return self._made("cudaEventCreate")

    def free_event(self, event: int) -> None:
        """Give back an event."""
        self._call("cudaEventDestroy", ctypes.c_void_p(event))

    def record(self, event: int, stream: int) -> None:
        """Note the time when the stream gets here."""
        self._call("cudaEventRecord", ctypes.c_void_p(event), ctypes.c_void_p(stream))

    def elapsed_ms(self, start: int, end: int) -> float:
        """Milliseconds between two events that have passed, on the clock of the GPU."""
        found = ctypes.c_float()
        self._call("cudaEventElapsedTime", ctypes.byref(found), ctypes.c_void_p(start), ctypes.c_void_p(end))
        return found.value

    def to_device(self, destination: int, source: int, size: int, stream: int) -> None:
        """Copy `size` bytes from the host, in the order of the stream."""
        self._copy(destination, source, size, _TO_DEVICE, stream)

    def to_host(self, destination: int, source: int, size: int, stream: int) -> None:
        """Copy `size` bytes to the host, in the order of the stream."""
        self._copy(destination, source, size, _TO_HOST, stream)

    def begin_capture(self, stream: int) -> None:
        """What is put on the stream from now on is not run, but becomes a graph."""
        self._call("cudaStreamBeginCapture", ctypes.c_void_p(stream), ctypes.c_int(_THREAD_LOCAL))

    def end_capture(self, stream: int) -> int:
        """The graph of what was put on the stream, ready to be launched."""
        graph = ctypes.c_void_p()
        self._call("cudaStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
        try:
            return self._made("cudaGraphInstantiateWithFlags", graph, ctypes.c_ulonglong(0))
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, graph: int, stream: int) -> None:
        """Put a graph on a stream."""
        self._call("cudaGraphLaunch", ctypes.c_void_p(graph), ctypes.c_void_p(stream))

    def free_graph(self, graph: int) -> None:
        """Give back a graph."""
        self._call("cudaGraphExecDestroy", ctypes.c_void_p(graph))

    def _copy(self, destination: int, source: int, size: int, kind: int, stream: int) -> None:
        self._call(
            "cudaMemcpyAsync",
            ctypes.c_void_p(destination),
            ctypes.c_void_p(source),
            ctypes.c_size_t(size),
            ctypes.c_int(kind),
            ctypes.c_void_p(stream),
        )

    def _made(self, function: str, *arguments: Any) -> int:
        """What a function writes to its first argument."""
        made = ctypes.c_void_p()
        self._call(function, ctypes.byref(made), *arguments)
        return made.value or 0

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._library, function)(*arguments)
        if status:
            describe = self._library.cudaGetErrorString
            describe.restype = ctypes.c_char_p
            said = describe(status)
            raise EngineBuildError(
                f"CUDA fails in {function}: {said.decode(errors='replace') if said else 'unknown'} ({status})"
            )


def open_cudart() -> Cudart:
    """The library that Polygraphy found.

    Raises:
        BackendMissingError: there is none.
    """
    try:
        return Cudart(importlib.import_module("polygraphy.cuda").wrapper().handle)
    except Exception as error:  # OSError of ctypes, PolygraphyException, ImportError
        raise BackendMissingError(
            f"the CUDA runtime library (libcudart) is not found: pip install nvidia-cuda-runtime ({error})"
        ) from error
