"""Which of onnxruntime's execution providers start on this machine."""

from __future__ import annotations

import numpy as np

from tofu_export.errors import TofuError
from tofu_export.system.ort.opening import open_session
from tofu_export.system.ort.package import LOG_ERROR, LOG_FATAL, onnxruntime

__all__ = ["providers_usable"]

_REMOTE_PROVIDERS = frozenset({"AzureExecutionProvider"})
"""Providers that send tensors to a service; they accept any model and run none of it here."""


def providers_usable() -> tuple[str, ...]:
    """Return the providers that start here, best first.

    Each one is tried on a one-node model: onnxruntime's own list names what was compiled in (onnxruntime-gpu lists
    CUDA without any GPU).

    Raises:
        BackendMissingError: onnxruntime is not installed or broken.
    """
    ort = onnxruntime()
    probe = _probe_model()
    ort.set_default_logger_severity(LOG_FATAL)
    try:
        return tuple(name for name in ort.get_available_providers() if _starts(probe, name))
    finally:
        ort.set_default_logger_severity(LOG_ERROR)


def _probe_model() -> bytes:
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "probe", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def _starts(probe: bytes, provider: str) -> bool:
    if provider in _REMOTE_PROVIDERS:
        return False
    try:
        open_session(probe, provider=provider).run({"x": np.ones(1, np.float32)})
    except TofuError:
        return False
    return True
