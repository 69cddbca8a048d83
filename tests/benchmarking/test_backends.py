"""Backends by name; those that need a GPU say why they are missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.engines import models
from tofu_export.benchmarking.backends import BACKENDS, open_backend
from tofu_export.benchmarking.options import parse_backends
from tofu_export.errors import BackendMissingError, ExitCode, OptionError
from tofu_export.system import environment, ort


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return models.save(models.block(), tmp_path)


def test_list() -> None:
    assert parse_backends("ort-cpu, ort-cuda") == ("ort-cpu", "ort-cuda")


@pytest.mark.parametrize("text", ["", ",", "cpu", "ort-cpu,abacus", "ort-cpu,ort-cpu"])
def test_something_else(text: str) -> None:
    with pytest.raises(OptionError, match="expected some of ort-cpu, ort-cuda, ort-tensorrt"):
        parse_backends(text)


def test_the_cpu(path: Path) -> None:
    runner = open_backend(path, "ort-cpu", 1)
    assert runner.device == environment.cpu_name()
    assert runner.session.native.get_session_options().intra_op_num_threads == 1
    call = runner.bind({"x": np.ones((2, 16, 32), np.float32)})
    outputs = call()
    assert isinstance(outputs, dict)
    assert outputs["y"].shape == (2, 16, 32)


def test_unknown(path: Path) -> None:
    with pytest.raises(OptionError, match="unknown backend 'abacus'"):
        open_backend(path, "abacus", None)


@pytest.mark.parametrize("backend", ["ort-cuda", "ort-tensorrt"])
def test_a_backend_that_cannot_start_here(backend: str, path: Path) -> None:
    if BACKENDS[backend] in ort.providers_usable():
        pytest.skip(f"{backend} works here")
    with pytest.raises(BackendMissingError, match=r"needs an NVIDIA GPU with its driver.*tofu-export\[gpu\]") as caught:
        open_backend(path, backend, None)
    assert caught.value.exit_code is ExitCode.BACKEND_MISSING


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["ort-cuda", "ort-tensorrt"])
def test_a_gpu(backend: str, path: Path) -> None:
    if BACKENDS[backend] not in ort.providers_usable():
        pytest.skip(f"the installed onnxruntime cannot start {BACKENDS[backend]}")
    runner = open_backend(path, backend, None)
    assert runner.device == environment.collect().gpu
    runner.bind({"x": np.ones((2, 16, 32), np.float32)})()
