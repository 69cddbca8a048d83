"""The engines of a job are verified where they can be run, and else it is said why not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests import exported
from tests.job.listener import Heard
from tests.report.html import samples
from tests.verification.machine import Machine, install, plan_of
from tofu_export.engines.describing.check import Answer, EngineCheck, Verdict
from tofu_export.engines.flavours import RTX
from tofu_export.errors import BackendMissingError, OptionError
from tofu_export.job import engines, vit
from tofu_export.job.engines import engine_requests, flavour_of, verify_engines, why_no_engine
from tofu_export.job.progress import Progress
from tofu_export.job.request import Job
from tofu_export.options import Precision, Target
from tofu_export.report.document import Report, Skipped
from tofu_export.system.environment import collect
from tofu_export.zoo.weights import WeightsSource

NAMES = ["model.engine"]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return install(monkeypatch)


@pytest.fixture
def adapter(tmp_path: Path) -> vit.VitAdapter:
    return vit.VitAdapter(Job(exported.MODEL, tmp_path, weights=WeightsSource.parse("random"), seed=3))


@pytest.fixture
def report(tmp_path: Path) -> Report:
    path = plan_of(tmp_path, exported.folder() / "model.fp32.onnx", batch=(1, 1, 2))
    assert path.name == "model.engine"
    return Report.from_dict(samples.report(verification=[], skipped=[]))


@pytest.fixture
def gpu(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    report.environment = replace(report.environment, gpu="ACME 1")
    monkeypatch.setattr(engines, "check_engine", lambda path: EngineCheck(path, ()))


def quantized_job(*precisions: Precision, engine: bool | None = None) -> Job:
    return Job(exported.MODEL, Path("out"), precisions=precisions, engine=engine)


def test_an_int8_file_gets_no_engine() -> None:
    """What is FP32 in it would be slower on a GPU than the FP16 file."""
    with pytest.raises(OptionError, match=r"--engine builds none of int8.*int8-fp16 or fp8"):
        quantized_job(Precision.FP16, Precision.INT8, engine=True)
    alone = quantized_job(Precision.INT8)
    assert flavour_of(alone) is None
    assert "int8 files are for CPUs" in why_no_engine(alone)
    mixed = quantized_job(Precision.INT8, Precision.FP8, Precision.INT8_FP16)
    assert engine_requests(mixed, RTX, Precision.INT8, Path("out")) == []
    for precision in (Precision.FP8, Precision.INT8_FP16):
        (request,) = engine_requests(mixed, RTX, precision, Path("out"))
        assert request.engine_path.name == f"model.{precision.value}.tensorrt-rtx.engine"
        assert mixed.opset_of(precision) == 19
    assert mixed.opset_of(Precision.INT8) == 18


def test_another_tensorrt_than_the_installed_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    files = replace(quantized_job(Precision.FP16), target=Target.TENSORRT)
    monkeypatch.setattr(engines, "available", lambda: (RTX,))
    assert flavour_of(files) is None
    assert why_no_engine(files).startswith(
        "tensorrt, which the files are for, is not installed or cannot run here, but"
    )
    assert "use --target tensorrt-rtx or portable" in why_no_engine(files)
    assert flavour_of(replace(files, target=Target.PORTABLE)) is RTX
    monkeypatch.setattr(engines, "available", tuple)
    assert why_no_engine(files).startswith("no TensorRT is installed")


@pytest.mark.e2e
def test_rows_of_the_report(
    gpu: None, machine: Machine, adapter: vit.VitAdapter, report: Report, tmp_path: Path
) -> None:
    heard = Heard()
    progress = Progress(heard)
    assert all(result.passed for result in verify_engines(adapter, tmp_path, NAMES, report, progress))
    assert [(row.artifact, row.reference, row.passed) for row in report.verification] == [
        ("model.engine", "the eager model", True),
        ("model.engine", "model.fp32.onnx", True),
    ]
    assert report.skipped == ()
    assert progress.seconds["verify model.engine"] > 0
    assert heard.texts[0] == "verifying model.engine"
    assert "against model.fp32.onnx: verified at batch 1, 2" in heard.texts[-1]


@pytest.mark.e2e
def test_a_wrong_engine(gpu: None, machine: Machine, adapter: vit.VitAdapter, report: Report, tmp_path: Path) -> None:
    machine.disturb = lambda found: found["logits"].__imul__(np.float32(np.nan))
    results = verify_engines(adapter, tmp_path, NAMES, report, Progress(Heard()))
    assert len(results) == 2
    assert "NaN or infinity" in str(results[0].failure())
    assert [row.passed for row in report.verification] == [False, False]


@pytest.mark.skipif(collect().gpu is not None, reason="this machine has a GPU")
def test_without_a_gpu(adapter: vit.VitAdapter, report: Report, tmp_path: Path) -> None:
    assert verify_engines(adapter, tmp_path, NAMES, report, Progress(Heard())) == []
    assert report.skipped == (Skipped("verification of model.engine", "no NVIDIA GPU with a driver to run it on"),)
    assert report.verification == ()


def test_for_another_gpu(
    gpu: None, adapter: vit.VitAdapter, report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts = (Verdict("plan", Answer.YES, "fine"), Verdict("gpu", Answer.NO, "it runs on SM89"))
    monkeypatch.setattr(engines, "check_engine", lambda path: EngineCheck(path, verdicts))
    assert verify_engines(adapter, tmp_path, NAMES, report, Progress(Heard())) == []
    assert [entry.reason for entry in report.skipped] == ["it runs on SM89"]


def test_without_what_runs_it(
    gpu: None, adapter: vit.VitAdapter, report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise BackendMissingError("polygraphy is not installed")

    monkeypatch.setattr(vit, "verify_engine", missing)
    assert verify_engines(adapter, tmp_path, NAMES, report, Progress(Heard())) == []
    assert [entry.reason for entry in report.skipped] == ["polygraphy is not installed"]
