"""An engine that is wrong with fused attention is built again in other forms, and the first that passes is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests import exported
from tests.job.listener import Heard
from tests.report.html import samples
from tests.verification.machine import Machine, StandIn, install, plan_of
from tofu_export.artifact.card import ModelCard
from tofu_export.engines.building.build import EngineRequest
from tofu_export.engines.describing.check import EngineCheck
from tofu_export.engines.flavours import RTX, available
from tofu_export.errors import EngineBuildError
from tofu_export.job import engines, vit
from tofu_export.job.attention import OtherForms, write_other_form
from tofu_export.job.engines import verify_engines
from tofu_export.job.progress import Progress
from tofu_export.job.request import Job
from tofu_export.options import AttentionForm, BatchRange, Precision
from tofu_export.report.artifacts import EngineFile, OnnxFile
from tofu_export.report.document import Report, Skipped
from tofu_export.system.environment import collect
from tofu_export.system.files import Staging
from tofu_export.verification.result import VerificationResult
from tofu_export.zoo.weights import WeightsSource

FUSED, WIDE, APART = AttentionForm
ONNX = "model.fp16.onnx"
ENGINE = "model.engine"


class Trial:
    """A job whose engine of FP16 is there, on a machine that gets some forms of attention wrong."""

    def __init__(self, folder: Path, machine: Machine, wrong: set[AttentionForm], asked: AttentionForm = FUSED) -> None:
        self.folder = folder
        self.built: list[Path] = []
        self.fails: set[str] = set()
        self.heard = Heard()
        job = Job(
            exported.MODEL, folder, weights=WeightsSource.parse("random"), seed=3,
            precisions=(Precision.FP32, Precision.FP16), attention=asked,
        )  # fmt: skip
        self.adapter = vit.VitAdapter(job)
        self.report = Report.from_dict(samples.report(verification=[], skipped=[]))
        self.report.environment = replace(self.report.environment, gpu="ACME 1")
        plan_of(folder, exported.folder() / ONNX, batch=(1, 1, 2), precision="fp16")
        facts = {"precision": Precision.FP16, "target": "portable", "bytes": 1, "sha256": ""}
        self.engine = EngineFile(kind="engine", path=ENGINE, **facts)
        self.report.artifacts = (OnnxFile(kind="onnx", path=ONNX, nodes=1, **facts), self.engine)
        self.report.skip(f"fusion in {ENGINE}", "6 of 6 attentions")
        self.others = OtherForms(job, Staging(folder, folder), self.report, self.build)
        request = EngineRequest(folder / ONNX, folder / ENGINE, RTX, BatchRange(1, 1, 2), Precision.FP16)
        self.others.add(request, Precision.FP16)
        open_plan = machine.open

        def open_as_this_gpu_does(path: Path, flavour: object) -> StandIn:
            """Plans of a form that this GPU gets wrong are wrong; copies that give out decisions are not asked."""
            machine.opened.clear()
            stand_in = open_plan(path, flavour)
            form = self.form_of(Path(path.read_text(encoding="utf-8")))
            if path.name == ENGINE and form in wrong:
                stand_in.disturb = lambda found: found["logits"].__imul__(np.float32(1.5))
            return stand_in

        self.open = open_as_this_gpu_does

    @staticmethod
    def form_of(source: Path) -> AttentionForm:
        return AttentionForm(
            ModelCard.of_model(onnx.load(source, load_external_data=False), source.name).find("attention", str)
            or FUSED.value
        )

    def build(self, request: EngineRequest, precision: Precision) -> None:
        assert precision is Precision.FP16
        self.built.append(request.onnx_path)
        if request.onnx_path.name in self.fails:
            raise EngineBuildError("no kernel for that")
        plan_of(self.folder, request.onnx_path, batch=(1, 1, 2), precision="fp16")
        self.report.artifacts += (self.engine,)

    def verify(self) -> list[VerificationResult]:
        return verify_engines(self.adapter, self.folder, [ENGINE], self.report, Progress(self.heard), self.others)

    @property
    def paths(self) -> list[str]:
        return [file.path for file in self.report.artifacts]


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    machine = install(monkeypatch)
    monkeypatch.setattr(engines, "check_engine", lambda path: EngineCheck(path, ()))

    def make(*wrong: AttentionForm, **asked: Any) -> Trial:
        found = Trial(tmp_path, machine, set(wrong), **asked)
        monkeypatch.setattr("tofu_export.verification.engines.open_engine", found.open)
        return found

    return make


@pytest.mark.e2e
def test_a_right_engine_is_left_alone(trial: Any) -> None:
    found = trial()
    assert all(result.passed for result in found.verify())
    assert found.built == []
    assert found.paths == [ONNX, ENGINE]


@pytest.mark.e2e
def test_the_next_form_is_tried_said_and_kept(trial: Any) -> None:
    found = trial(FUSED)
    results = found.verify()
    assert [result.passed for result in results] == [True, True]
    name = f"model.fp16.{WIDE.value}.onnx"
    assert [path.name for path in found.built] == [name]
    assert found.paths == [ONNX, name, ENGINE]
    entry = found.report.artifacts[1]
    assert (entry.attention, entry.kind) == (WIDE, "onnx")
    assert entry.nodes == sum(entry.ops.values()) > 100
    assert entry.ops["Cast"] > 20
    sidecar = json.loads((found.folder / f"{ENGINE}.json").read_text(encoding="utf-8"))
    assert sidecar["onnx"]["file"] == name
    assert [row.passed for row in found.report.verification] == [True, True]
    (said,) = found.report.skipped
    assert said.step == f"--attention fused in {ENGINE}"
    assert "wrong against the eager model (FAILED at batch 1, 2" in said.reason
    assert said.reason.endswith("with --attention fp32-accumulate it passes, and that is kept")
    assert any("trying --attention fp32-accumulate" in text for text in found.heard.texts)


@pytest.mark.e2e
def test_the_last_form_where_the_one_before_is_wrong_too(trial: Any) -> None:
    found = trial(FUSED, WIDE)
    assert all(result.passed for result in found.verify())
    name = f"model.fp16.{APART.value}.onnx"
    assert found.paths == [ONNX, name, ENGINE]
    assert len(found.built) == 2


@pytest.mark.e2e
def test_a_form_that_cannot_be_built_is_passed_over(trial: Any) -> None:
    found = trial(FUSED)
    found.fails = {f"model.fp16.{WIDE.value}.onnx"}
    assert all(result.passed for result in found.verify())
    assert found.paths == [ONNX, f"model.fp16.{APART.value}.onnx", ENGINE]
    assert Skipped(f"--attention {WIDE.value} in {ENGINE}", "no kernel for that") in found.report.skipped


@pytest.mark.e2e
def test_where_no_form_helps_the_first_failure_counts(trial: Any) -> None:
    found = trial(*AttentionForm)
    results = found.verify()
    assert [result.passed for result in results] == [False, False]
    assert [path.name for path in found.built] == [f"model.fp16.{form.value}.onnx" for form in (WIDE, APART)]
    assert found.paths == [ONNX, ENGINE]
    assert not any("is kept" in entry.reason for entry in found.report.skipped)


@pytest.mark.e2e
def test_what_was_asked_for_is_where_it_begins(trial: Any) -> None:
    found = trial(FUSED, asked=APART)
    assert not all(result.passed for result in found.verify())
    assert found.built == []


def test_a_file_without_attention_to_change_stays(tmp_path: Path) -> None:
    """One in FP32; and nothing is written in its place."""
    source = exported.folder() / "model.fp32.onnx"
    assert write_other_form(source, tmp_path / "other.onnx", WIDE) == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gpu
@pytest.mark.skipif(collect().gpu is None or not available(), reason="needs a GPU and a TensorRT")
def test_every_form_is_right_on_this_gpu(tmp_path: Path) -> None:
    for form in AttentionForm:
        job = Job(
            exported.MODEL, tmp_path / form.value, weights=WeightsSource.parse("random"), attention=form,
            precisions=(Precision.FP16,), batch=BatchRange(1, 1, 2), engine=True, bench=False,
        )  # fmt: skip
        report = vit.run_job(job, Heard())
        rows = [row for row in report.verification if row.artifact.endswith(".engine")]
        assert rows
        assert all(row.passed for row in rows)
        assert not any(entry.step.startswith("--attention") for entry in report.skipped)
