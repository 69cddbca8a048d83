"""Functions of the CUDA runtime library that a timed query needs, through ctypes.

PyTorch has them too, but this package runs without it; Polygraphy has the allocations and copies, but neither events
nor graphs. The library is the one that Polygraphy found, so that a process has only one.

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
    """Memory, streams, events and graphs of CUDA. Addresses and handles are integers.

    Args:
        library: libcudart, loaded.

    Raises:
        EngineBuildError: by every method, if CUDA reports an error.
    """

    def __init__(self, library: Any) -> None:
        self._library = library

    def allocate(self, size: int) -> int:
        """Allocate `size` bytes on the device."""
        return self._made("cudaMalloc", ctypes.c_size_t(max(size, 1)))

    def allocate_host(self, size: int) -> int:
        """Allocate page-locked memory of the host, so that copies need no staging."""
        return self._made("cudaMallocHost", ctypes.c_size_t(max(size, 1)))

    def free(self, address: int) -> None:
        """Free memory on the device."""
        self._call("cudaFree", ctypes.c_void_p(address))

    def free_host(self, address: int) -> None:
        """Free memory of the host."""
        self._call("cudaFreeHost", ctypes.c_void_p(address))

    def stream(self) -> int:
        """Create a stream that does not wait for the default stream."""
        return self._made("cudaStreamCreateWithFlags", ctypes.c_uint(_NON_BLOCKING))

    def free_stream(self, stream: int) -> None:
        """Free a stream."""
        self._call("cudaStreamDestroy", ctypes.c_void_p(stream))

    def synchronize(self, stream: int) -> None:
        """Wait until a stream has finished its work."""
        self._call("cudaStreamSynchronize", ctypes.c_void_p(stream))

    def event(self) -> int:
        """Create an event."""
        return self._made("cudaEventCreate")

    def free_event(self, event: int) -> None:
        """Free an event."""
        self._call("cudaEventDestroy", ctypes.c_void_p(event))

    def record(self, event: int, stream: int) -> None:
        """Record the time when the stream reaches this point."""
        self._call("cudaEventRecord", ctypes.c_void_p(event), ctypes.c_void_p(stream))

    def elapsed_ms(self, start: int, end: int) -> float:
        """Return the milliseconds between two events that have passed, on the clock of the GPU."""
        found = ctypes.c_float()
        self._call("cudaEventElapsedTime", ctypes.byref(found), ctypes.c_void_p(start), ctypes.c_void_p(end))
        return found.value

    def to_device(self, destination: int, source: int, size: int, stream: int) -> None:
        """Copy `size` bytes from the host, in stream order."""
        self._copy(destination, source, size, _TO_DEVICE, stream)

    def to_host(self, destination: int, source: int, size: int, stream: int) -> None:
        """Copy `size` bytes to the host, in stream order."""
        self._copy(destination, source, size, _TO_HOST, stream)

    def begin_capture(self, stream: int) -> None:
        """Capture all further work on the stream into a graph instead of running it."""
        self._call("cudaStreamBeginCapture", ctypes.c_void_p(stream), ctypes.c_int(_THREAD_LOCAL))

    def end_capture(self, stream: int) -> int:
        """End the capture, and return the graph, ready to be launched."""
        graph = ctypes.c_void_p()
        self._call("cudaStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
        try:
            return self._made("cudaGraphInstantiateWithFlags", graph, ctypes.c_ulonglong(0))
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, graph: int, stream: int) -> None:
        """Launch a graph on a stream."""
        self._call("cudaGraphLaunch", ctypes.c_void_p(graph), ctypes.c_void_p(stream))

    def free_graph(self, graph: int) -> None:
        """Free a graph."""
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
        """Return what a function writes to its first argument."""
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
    """Open the library that Polygraphy found.

    Raises:
        BackendMissingError: there is no such library.
    """
    try:
        return Cudart(importlib.import_module("polygraphy.cuda").wrapper().handle)
    except Exception as error:  # OSError of ctypes, PolygraphyException, ImportError
        raise BackendMissingError(
            f"the CUDA runtime library (libcudart) is not found: pip install nvidia-cuda-runtime ({error})"
        ) from error
