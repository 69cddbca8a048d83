"""What is known of an engine before it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.engines import sidecars
from tofu_export.engines.describing.engine_file import EngineFile, read_engine_file
from tofu_export.engines.flavours import RTX, TENSORRT
from tofu_export.errors import OptionError
from tofu_export.options import BatchRange, Precision


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "a.engine"
    path.write_bytes(b"ftrt plan")
    return path


def describe(plan: Path, **changes: Any) -> Path:
    """Write the sidecar of a plan of classic TensorRT, and the ONNX file."""
    source = plan.with_name("a.onnx")
    source.write_bytes(b"onnx")
    sizes = {"min": [1, 3, 8, 8], "opt": [2, 3, 8, 8], "max": [4, 3, 8, 8]}
    facts = {"flavour": "tensorrt", "compute_capabilities": [], "profiles": {"input": sizes}, "precision": "fp16"}
    sidecars.write(plan, source, **{**facts, **changes})
    return source


def test_the_sidecar_says_all(plan: Path) -> None:
    source = describe(plan)
    assert read_engine_file(plan) == EngineFile(plan, TENSORRT, source, BatchRange(1, 2, 4), Precision.FP16, ())
    assert read_engine_file(plan, Path("other.onnx")).onnx_path == source


@pytest.mark.parametrize("batches", [{}, {"a": 1, "b": 2}, {"scalar": None}])
def test_fixed_or_several_batches_are_no_range(batches: dict[str, int | None], plan: Path) -> None:
    keys = ("min", "opt", "max")
    describe(
        plan,
        profiles={name: dict.fromkeys(keys, [] if size is None else [size]) for name, size in batches.items()},
    )
    assert read_engine_file(plan).batch is None


def test_without_a_sidecar_the_header_tells_the_flavour(plan: Path) -> None:
    assert read_engine_file(plan, Path("a.onnx")) == EngineFile(plan, TENSORRT, Path("a.onnx"), None, None, ())
    plan.write_bytes(b"vtrt plan")
    assert read_engine_file(plan).flavour is RTX


def test_what_is_given_stands_in_for_an_onnx_file_that_is_not_there(plan: Path) -> None:
    describe(plan).unlink()
    assert read_engine_file(plan).onnx_path is None
    assert read_engine_file(plan, Path("given.onnx")).onnx_path == Path("given.onnx")


@pytest.mark.parametrize("changes", [{"flavour": "abacus"}, {"precision": "fp12"}, {"onnx": None}])
def test_what_the_sidecar_refuses(changes: dict[str, Any], plan: Path) -> None:
    describe(plan, **changes)
    with pytest.raises(OptionError):
        read_engine_file(plan)


def test_no_such_plan(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="does not exist"):
        read_engine_file(tmp_path / "gone.engine")
