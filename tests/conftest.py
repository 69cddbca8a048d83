"""What all tests share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from tests.trace_cache import kept

_EXPORT = torch.onnx.export

settings.register_profile("tofu", deadline=None)  # how long an example takes says how busy the machine is
settings.load_profile("tofu")


def pytest_collection_finish() -> None:
    """Leave what is imported by now out of garbage collection, which was half of the time of the tests.

    A verification collects garbage four times, and PyTorch with timm has half a million objects.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _kept_traces(request: pytest.FixtureRequest) -> Iterator[None]:
    """Graphs of `torch.onnx.export` are kept for all workers and later sessions."""
    torch.onnx.export = kept(_EXPORT, request.config.rootpath / ".pytest_cache" / "traces")
    yield
    torch.onnx.export = _EXPORT


@pytest.fixture(autouse=True)
def _new_traces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """But not in tests that are about tracing itself."""
    if request.node.get_closest_marker("traces") is not None:
        monkeypatch.setattr(torch.onnx, "export", _EXPORT)
