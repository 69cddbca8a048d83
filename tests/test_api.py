"""The Python API on live models: what `import tofu_export` promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
from torch import nn

import tofu_export as tofu
from tests import exported
from tofu_export.artifact.card import ModelCard
from tofu_export.job import pipeline, vit
from tofu_export.job.request import Job
from tofu_export.options import HaltingOptions, Selection
from tofu_export.patch import applied_plan
from tofu_export.report.document import VitReport
from tofu_export.system.ort import open_session
from tofu_export.zoo.live import name_of

QUICK: dict[str, Any] = {"precisions": "fp32", "batch": "1:2:3", "bench": False, "engine": False}


def model(**changes: Any) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_vit", pretrained=False, **changes).eval()


def images(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 160, 160, generator=torch.Generator().manual_seed(1))


def test_importing_it_loads_nothing_heavy() -> None:
    code = (
        "import tofu_export, sys; tofu_export.Reduction; print({'torch', 'timm', 'onnx', 'click'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"


def test_every_public_name_is_there() -> None:
    for name in tofu.__all__:
        assert getattr(tofu, name) is not None
        assert getattr(tofu, name).__doc__
    assert set(tofu.__all__) <= set(dir(tofu))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        tofu.nothing  # noqa: B018


def test_the_plan_of_a_live_model_is_that_of_its_name() -> None:
    reduction = tofu.Reduction(r=8)
    assert tofu.plan(model(), reduction) == tofu.plan("test_vit", reduction)
    assert tofu.plan(tofu.apply(model(), reduction), reduction) == tofu.plan("test_vit", reduction)


def test_apply_and_remove() -> None:
    live = model()
    names, before = list(live.state_dict()), live(images())
    assert tofu.apply(live, tofu.Reduction(r=8)) is live
    assert not torch.allclose(live(images()), before, atol=1e-6)
    assert list(live.state_dict()) == names
    plan = tofu.plan("test_vit", tofu.Reduction(r=4))
    tofu.apply(live, plan)
    assert applied_plan(live) == plan
    assert torch.equal(tofu.remove(live)(images()), before)


def test_a_reduced_model_is_trained() -> None:
    live = tofu.apply(model(num_classes=3), tofu.Reduction(r=8)).train()
    optimizer = torch.optim.AdamW(live.parameters(), lr=1e-3)
    labels = torch.tensor([0, 1, 2])
    losses = []
    for _ in range(8):
        loss = nn.functional.cross_entropy(live(images(3)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    missing = [name for name, weight in live.named_parameters() if weight.grad is None]
    assert missing == []
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.e2e
def test_a_live_model_is_exported_as_it_stands(tmp_path: Path) -> None:
    live = model(num_classes=7).double()
    before = {name: value.clone() for name, value in live.state_dict().items()}
    report = tofu.export(live, tmp_path / "out", tofu.Reduction(r=8), **QUICK)
    assert report.model.weights.kind == "live"
    assert [row.passed for row in report.verification] == [True]
    assert applied_plan(live) is None
    assert all(torch.equal(value, before[name]) for name, value in live.state_dict().items())
    expected = tofu.apply(live.float(), tofu.Reduction(r=8))(images()).detach().numpy()
    found = open_session(tmp_path / "out" / "model.onnx").run({"input": images().numpy()})["logits"]
    assert np.abs(found - expected).max() < 1e-4


def report_of(tmp_path: Path, subject: nn.Module | str, reduction: Any = None, **options: Any) -> VitReport:
    """Export without verification, in one precision."""
    return tofu.export(subject, tmp_path / "out", reduction, verify=False, **{**QUICK, **options})


@pytest.mark.e2e
def test_a_live_model_is_not_named_after_weights_that_it_may_not_have(tmp_path: Path) -> None:
    live = model(num_classes=7)
    assert "." in name_of(live)  # timm gives it the tag of pretrained weights, which these are not
    report = report_of(tmp_path, live, tofu.Reduction(r=8))
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# test_vit with Token Fusion\n")
    assert "Weights: those of the live model; " in text
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert name_of(live).partition(".")[2] not in text + page
    card = ModelCard.of_model(onnx.load(tmp_path / "out" / "model.onnx"), "model.onnx")
    assert card.find("model", str) == report.model.resolved == "test_vit"


@pytest.mark.e2e
def test_the_report_says_how_it_was_called(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    report = report_of(tmp_path, model(), tofu.Reduction(r=8, mode=tofu.Mode.TOME))
    call = f"tofu_export.export(model, {out!r}, tofu_export.Reduction(r=8, mode=tofu_export.Mode.TOME), verify=False"
    assert report.command.splitlines()[:3] == [
        "# model: the live test_vit of the program that called", "import tofu_export", "",
    ]  # fmt: skip
    assert report.command.splitlines()[3].startswith(f"{call}, precisions='fp32', batch='1:2:3'")
    assert report.command in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    again = report_of(tmp_path, "test_vit", weights="random")
    assert again.command.startswith(f"import tofu_export\n\ntofu_export.export('test_vit', {out!r}, verify=False")


@pytest.mark.e2e
def test_the_plan_that_a_live_model_carries_is_exported(tmp_path: Path) -> None:
    live = tofu.apply(model(), tofu.Reduction(r=5, pattern="PAMTW-"))
    plan = applied_plan(live)
    report = tofu.export(live, tmp_path / "out", verify=False, **QUICK)
    assert plan is not None
    assert report.plan.layers == plan.entry().layers
    assert applied_plan(live) == plan


GATED = tofu.Reduction(r=(0, 0, 0, 8, 0, 8), select=Selection.HALTING, halting=HaltingOptions(center=75.0))


@pytest.mark.parametrize("reduction", [tofu.Reduction(r=5, pattern="PAMTW-"), tofu.Reduction(keep_rate=0.9), GATED])
def test_a_plan_is_exported_as_it_is(reduction: tofu.Reduction, monkeypatch: pytest.MonkeyPatch) -> None:
    """Amounts, methods and gate of it, with the plan as the reason for its token sizes."""
    asked: list[Job] = []
    monkeypatch.setattr(vit, "VitAdapter", lambda job, *_: asked.append(job))
    monkeypatch.setattr(pipeline, "run_export", lambda *_: None)
    live = tofu.apply(model(), reduction)
    plan = applied_plan(live)
    assert plan is not None
    tofu.export(live, "out")
    tofu.export("test_vit", "out", plan)
    for job in asked:
        again = tofu.plan("test_vit", job.reduction)
        assert (again.layers, again.prop_attn) == (plan.layers, plan.prop_attn)
        assert again.halting == plan.halting
        assert again.prop_attn_reason == "the plan says so"
    with pytest.raises(tofu.errors.OptionError, match=r"the plan removes \d+ tokens in layer [03] .* the most is 0"):
        tofu.plan("test_vit", asked[0].reduction, image_size=(16, 16))


def test_options_are_read_as_on_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(tofu.errors.OptionError, match="colour: no such option, expected some of attention, batch"):
        tofu.export("test_vit", tmp_path / "out", colour="red")
    with pytest.raises(tofu.errors.OptionError, match="'onnx' is no target, expected one of portable"):
        tofu.export("test_vit", tmp_path / "out", target="onnx")
    with pytest.raises(tofu.errors.OptionError, match="'split' is no attentionform, expected one of fused"):
        tofu.export("test_vit", tmp_path / "out", attention="split")
    with pytest.raises(tofu.errors.OptionError, match="'fp5' is no precision, expected one of fp32"):
        tofu.export("test_vit", tmp_path / "out", precisions=("fp32", "fp5"))
    with pytest.raises(tofu.errors.OptionError, match="batch 9 is to be timed, but the files serve 4:4:4"):
        tofu.export("test_vit", tmp_path / "out", batch=4, bench_batches="4,9")
    with pytest.raises(tofu.errors.OptionError, match="pace: no such option, expected some of backends"):
        tofu.bench("a.onnx", pace="quick")
    with pytest.raises(tofu.errors.OptionError, match="a live model brings its own weights"):
        tofu.export(model(), tmp_path / "out", weights="random")
    assert not (tmp_path / "out").exists()


@pytest.mark.e2e
def test_a_file_is_verified_linted_and_lowered(tmp_path: Path) -> None:
    source = exported.folder() / "model.fp32.onnx"
    (result,) = tofu.verify(source, batches=(2,))
    assert result.passed
    assert tofu.lint(source, "tensorrt-rtx").passed
    lowered = tofu.lower(source, tmp_path / "new.onnx", "tensorrt")
    assert lowered.changes == ()
    assert onnx.load(tmp_path / "new.onnx").graph.node
    with pytest.raises(tofu.errors.OptionError, match="the original itself"):
        tofu.lower(source, source)


def test_files_are_timed_against_each_other() -> None:
    source = exported.folder() / "model.fp32.onnx"
    result = tofu.bench(source, batches=(1,), min_seconds=0.01, warmup_ms=1.0)
    assert [row.batch for row in result.measurements] == [1]


@pytest.mark.e2e
@pytest.mark.rtx
def test_an_engine_is_built(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    source = exported.folder() / "model.fp16.onnx"
    receipt = tofu.build_engine(source, tmp_path / "a.engine", batch="1:2:3", compute_capabilities=("SM89",))
    assert (tmp_path / "a.engine").stat().st_size == receipt.engine_bytes
    assert (tmp_path / "a.engine.json").exists()
