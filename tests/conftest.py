"""What all tests share: torch's table of ONNX functions, which each export would make again, is made once a process."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest


@pytest.fixture(scope="session", autouse=True)
def _one_registry() -> Any:
    """A sixth of the time of tracing a tiny model. No test adds functions to the table."""
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:  # private, so it may move: then tests take longer
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        yield
