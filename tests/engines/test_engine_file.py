"""What is known of a plan before it is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tofu_export.engines.engine_file import EngineFile, read_engine_file
from tofu_export.engines.flavours import RTX, TENSORRT
from tofu_export.errors import OptionError
from tofu_export.files import sha256_of
from tofu_export.options import BatchRange, Precision


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "a.engine"
    path.write_bytes(b"ftrt plan")
    return path


def describe(plan: Path, **changes: Any) -> None:
    """Write the sidecar and the ONNX file."""
    source = plan.with_name("a.onnx")
    source.write_bytes(b"onnx")
    sizes = {"min": [1, 3, 8, 8], "opt": [2, 3, 8, 8], "max": [4, 3, 8, 8]}
    facts = {
        "flavour": "tensorrt",
        "onnx": {"file": "a.onnx", "sha256": sha256_of(source)},
        "profiles": {"input": sizes},
        "precision": "fp16",
        "compute_capabilities": [],
        **changes,
    }
    plan.with_name("a.engine.json").write_text(json.dumps(facts), encoding="utf-8")


def test_the_sidecar_says_all(plan: Path) -> None:
    describe(plan)
    source = plan.with_name("a.onnx")
    assert read_engine_file(plan) == EngineFile(plan, TENSORRT, source, BatchRange(1, 2, 4), Precision.FP16, ())
    assert read_engine_file(plan, Path("other.onnx")).onnx_path == source


def test_fixed_or_several_batches_are_no_range(plan: Path) -> None:
    describe(plan, profiles={})
    assert read_engine_file(plan).batch is None
    describe(
        plan, profiles={name: {key: [size] for key in ("min", "opt", "max")} for name, size in (("a", 1), ("b", 2))}
    )
    assert read_engine_file(plan).batch is None


def test_without_a_sidecar_the_header_tells_the_flavour(plan: Path) -> None:
    assert read_engine_file(plan, Path("a.onnx")) == EngineFile(plan, TENSORRT, Path("a.onnx"), None, None, ())
    plan.write_bytes(b"vtrt plan")
    assert read_engine_file(plan).flavour is RTX


def test_another_onnx_file_beside_it(plan: Path) -> None:
    describe(plan)
    plan.with_name("a.onnx").write_bytes(b"another")
    with pytest.raises(OptionError, match=r"a\.onnx is not the file that a\.engine was built from"):
        read_engine_file(plan)
    plan.with_name("a.onnx").unlink()
    assert read_engine_file(plan).onnx_path is None


def test_an_onnx_file_that_is_said_to_be_elsewhere_is_looked_for_beside_it(plan: Path) -> None:
    describe(plan, onnx={"file": "/etc/passwd", "sha256": "0"})
    assert read_engine_file(plan).onnx_path is None


@pytest.mark.parametrize(
    "changes",
    [
        {"flavour": "abacus"}, {"onnx": {}}, {"onnx": None}, {"profiles": {"x": {}}}, {"profiles": []},
        {"profiles": {"x": {"min": [], "opt": [], "max": []}}}, {"precision": "fp12"}, {"compute_capabilities": None},
        {"profiles": {"x": {"min": [4], "opt": [1], "max": [1]}}},
    ],
)  # fmt: skip
def test_a_damaged_sidecar(changes: dict[str, Any], plan: Path) -> None:
    describe(plan, **changes)
    with pytest.raises(OptionError):
        read_engine_file(plan)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_no_sidecar_at_all(text: str, plan: Path) -> None:
    plan.with_name("a.engine.json").write_text(text, encoding="utf-8")
    with pytest.raises(OptionError, match=r"a\.engine\.json"):
        read_engine_file(plan)
