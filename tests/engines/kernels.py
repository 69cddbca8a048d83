"""Kernels as a builder's log names them."""

from __future__ import annotations

from tofu_export.engines.describing.kernel_log import KernelRecord


def kernel(kind: str, tactic: str, dtype: str, *nodes: str) -> KernelRecord:
    return KernelRecord("", kind, tactic, nodes, (dtype,), ("fp16",))
