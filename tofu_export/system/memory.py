"""Return free memory to the system, before the next large model is loaded."""

from __future__ import annotations

import ctypes
import gc

__all__ = ["give_back"]


def give_back() -> None:
    """Collect garbage, and release memory that the C library holds.

    After a session of onnxruntime with 1 billion parameters glibc keeps 1 GB of freed weights, which the next session
    does not fit into. Without glibc only garbage is collected.
    """
    gc.collect()
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # macOS and musl; Windows
        return
    trim(0)
