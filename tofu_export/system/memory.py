"""Return free memory to the system, before the next large model is loaded."""

from __future__ import annotations

import ctypes
import gc

__all__ = ["give_back", "trim"]


def give_back() -> None:
    """Collect garbage, which takes a third of a second beside PyTorch and timm, and return what is free to the system.

    For objects that form cycles, such as those of PyTorch's exporter; others are free without it.
    """
    gc.collect()
    trim()


def trim() -> None:
    """Release memory that the C library holds.

    After a session of onnxruntime with 1 billion parameters glibc keeps 1 GB of freed weights, which the next session
    does not fit into. Other C libraries have no such call.
    """
    try:
        release = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # macOS and musl; Windows
        return
    release(0)
