"""What the report says of a file: its own hash, and those of what lies beside it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tofu_export.job.files import describe_file, with_data
from tofu_export.options import Precision
from tofu_export.report.artifacts import Beside
from tofu_export.system.files import staging

CONTENT = {"model.onnx": b"graph", "model.onnx.data": b"weights", "model.onnx.json": b"{}"}


@pytest.mark.parametrize(
    ("present", "beside", "size"),
    [
        (["model.onnx"], [], 5),
        (["model.onnx", "model.onnx.data"], ["model.onnx.data"], 12),
        (["model.onnx", "model.onnx.json"], ["model.onnx.json"], 5),
        ([*CONTENT], ["model.onnx.data", "model.onnx.json"], 12),
    ],
)
def test_every_file_has_its_hash(present: list[str], beside: list[str], size: int, tmp_path: Path) -> None:
    with staging(tmp_path) as stage:
        for name in present:
            stage.path(name).write_bytes(CONTENT[name])
        entry = describe_file(stage, Precision.FP32, "portable", "model.onnx")
        assert set(with_data(stage, "model.onnx")) == set(present)
    assert (entry["path"], entry["bytes"]) == ("model.onnx", size)
    assert entry["sha256"] == hashlib.sha256(b"graph").hexdigest()
    assert entry["beside"] == tuple(Beside(name, hashlib.sha256(CONTENT[name]).hexdigest()) for name in beside)
