"""What the report says of a file: its own hash, and those of what lies beside it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tofu_export.job.files import describe_file, planned_names, with_data
from tofu_export.job.request import ExportJob
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


def test_weights_of_large_models_are_planned_as_files_of_their_own(tmp_path: Path) -> None:
    job = ExportJob("vit_huge", tmp_path, precisions=(Precision.FP32, Precision.FP16))
    reports = {"report.html", "report.md", "report.json"}
    names = planned_names(job, 632_000_000, ["a.engine"], token_maps=False)
    assert names[:3] == ("model.fp32.onnx.data", "model.fp32.onnx", "model.fp16.onnx")
    assert set(names[3:]) == {"a.engine", "a.engine.json", *reports}
    assert set(planned_names(job, 86_000_000, [], token_maps=True)) == {
        "model.fp32.onnx", "model.fp16.onnx", "tokens.json", *reports,
    }  # fmt: skip
