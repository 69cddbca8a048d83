"""Give memory that is free back to the system, before the next large thing is loaded."""

from __future__ import annotations

import ctypes
import gc

__all__ = ["give_back"]


def give_back() -> None:
    """Collect garbage, and return what the C library holds on to.

    After a session of onnxruntime with 1 billion parameters glibc keeps 1 GB of freed weights, which the next session
    does not fit into. Elsewhere than on glibc only the garbage is collected.
    """
    gc.collect()
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # macOS and musl; Windows
        return
    trim(0)
