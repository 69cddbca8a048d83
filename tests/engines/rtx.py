"""TensorRT-RTX, where it is installed."""

from __future__ import annotations

import importlib.util

import pytest

rtx = pytest.mark.rtx

needs_rtx = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
