"""The main job from the command line, on small models."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import timm
import torch

from tests import exported
from tests.cli.running import run
from tests.digits import few_digits
from tests.sampling import sampled
from tofu_export import demo
from tofu_export.artifact.card import ModelCard
from tofu_export.engines.flavours import RTX, available
from tofu_export.errors import BackendMissingError, EngineBuildError
from tofu_export.job.progress import Progress
from tofu_export.system.files import sha256_of
from tofu_export.system.ort import open_session

QUICK = ("--weights", "random", "--precision", "fp32", "--no-bench", "--no-engine", "--batch", "1:2:3")
TRTEXEC_FIELDS = {
    "throughput_qps", "latency_ms", "enqueue_ms", "h2d_ms", "gpu_compute_ms", "d2h_ms", "walltime_s",
}  # fmt: skip


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The demo: what README promises first. Returns stdout's document and the folder."""
    out = tmp_path_factory.mktemp("demo") / "out"
    stdout, stderr = io.StringIO(), io.StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr):
        assert run("demo_vit", "--r", "16", "--mode", "mlerp", "-o", str(out), "--json") == 0
    assert "verified at batch" in stderr.getvalue()
    return json.loads(stdout.getvalue()), out


def test_stdout_is_the_report(demo_run: tuple[dict[str, Any], Path]) -> None:
    document, out = demo_run
    assert document == json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert document["schema_version"] == 1
    assert document["model"]["tokens"] == 197
    assert document["plan"]["pattern"] == "PPPPPPMMMMMM"
    assert (document["plan"]["prop_attn"], document["plan"]["prop_attn_reason"]) == (True, "default")
    assert document["command"].startswith("tofu-export demo_vit --r 16")


def test_every_artifact_is_there_and_whole(demo_run: tuple[dict[str, Any], Path]) -> None:
    document, out = demo_run
    kinds = [(entry["kind"], entry["precision"]) for entry in document["artifacts"]]
    engines = [("engine", "fp32"), ("engine", "fp16")] if RTX in available() else []
    assert kinds == [("onnx", "fp32"), ("onnx", "fp16"), *engines]
    for entry in document["artifacts"]:
        assert (out / entry["path"]).stat().st_size == entry["bytes"]
        assert sha256_of(out / entry["path"]) == entry["sha256"]
        if entry["kind"] == "engine":
            sidecar = json.loads((out / f"{entry['path']}.json").read_text(encoding="utf-8"))
            assert sidecar["engine"]["sha256"] == entry["sha256"]
            assert entry["kernels"]["kernels"] > 0
    listed = {entry["path"] for entry in document["artifacts"]} | {
        "report.html",
        "report.json",
        "report.md",
        "tokens.json",
    }
    assert {path.name for path in out.iterdir()} == listed | {f"{name}.json" for name in listed if "engine" in name}


def test_every_file_is_verified(demo_run: tuple[dict[str, Any], Path]) -> None:
    document, _ = demo_run
    fp32, fp16 = document["verification"]
    assert fp32["passed"]
    assert fp16["passed"]
    assert fp32["max_abs"] <= 1e-4
    assert fp32["batches"] == [1, 3, 8]
    assert fp32["inputs"] == "demo set"
    for row in (fp32, fp16):
        assert row["decisions"]["layers"] == 11  # the class token does not see the last reduction
        assert row["decisions"]["compared"] > 0
        assert row["decisions"]["wrong"] == 0


@pytest.mark.e2e
def test_accuracy_is_that_of_the_files(demo_run: tuple[dict[str, Any], Path]) -> None:
    document, out = demo_run
    rows = {row["artifact"]: row for row in document["accuracy"]}
    assert set(rows) == {"full", "model.fp32.onnx", "model.fp16.onnx"}
    assert rows["full"]["top1"] >= 0.96
    images, labels = demo.load_images()
    pixels = ((images[:, None] / 255 - 0.1307) / 0.3081).astype(np.float32)
    session = open_session(out / "model.fp32.onnx")
    right = [session.run({"input": part})["logits"].argmax(1) for part in np.split(pixels, 20)]
    assert (np.concatenate(right) == labels).mean() == rows["model.fp32.onnx"]["top1"]


def test_benchmark_has_trtexecs_fields(demo_run: tuple[dict[str, Any], Path]) -> None:
    document, _ = demo_run
    full, reduced = document["benchmark"]
    assert (full["artifact"], reduced["artifact"]) == ("full", "model.fp32.onnx")
    for row in (full, reduced):
        assert set(row) >= TRTEXEC_FIELDS
        assert {"min", "max", "mean", "median", "p90", "p95", "p99"} <= set(row["latency_ms"])
        assert row["gpu_compute_ms"] is None
        assert row["images_per_sec"] == pytest.approx(8 * row["throughput_qps"])
    assert full["speedup_vs_full"] == 1


def test_metadata_travels_with_the_file(demo_run: tuple[dict[str, Any], Path]) -> None:
    document, out = demo_run
    model = onnx.load(out / "model.fp16.onnx")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["tofu_export.plan"]) == document["plan"]
    assert json.loads(metadata["tofu_export.preprocessing"])["mean"] == [0.1307]
    assert metadata["tofu_export.precision"] == "fp16"
    assert [value.name for value in model.graph.input] == ["input"]
    assert [value.name for value in model.graph.output] == ["logits"]
    assert not any("/" in entry.key for node in model.graph.node for entry in node.metadata_props)


def test_the_markdown_report_reads(demo_run: tuple[dict[str, Any], Path]) -> None:
    text = (demo_run[1] / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# demo_vit with Token Fusion")
    for heading in ("## Files", "## Verification", "## Accuracy", "## Benchmark", "## Reproduce"):
        assert heading in text


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        pytest.param(("--mode", "average"), "PPPAAA", marks=pytest.mark.thorough),
        pytest.param(("--mode", "prune"), "PPPPPP", marks=pytest.mark.thorough),
        (("--mode", "tome"), "TTTTTT"),
        (("--pattern", "AAAPPP", "--target", "onnxruntime"), "AAAPPP"),
        pytest.param(("--schedule", "linear", "--prop-attn", "off"), "PWWWWW", marks=pytest.mark.thorough),
    ],
)
def test_other_methods(
    options: tuple[str, ...], pattern: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("test_vit", "--r", "12", *options, *QUICK, "-o", str(tmp_path / "out"), "--json", "-q") == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert err == ""
    assert document["plan"]["pattern"] == pattern
    assert document["verification"][0]["passed"]
    assert {entry["step"] for entry in document["skipped"]} == {"benchmark", "engines", "token maps"}
    assert (tmp_path / "out" / "model.onnx").exists()


@pytest.mark.e2e
def test_r_0_is_the_plain_model_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("test_vit", "--r", "0", *QUICK, "-o", str(tmp_path / "out")) == 0
    assert "no token is removed, this is the plain model" in capsys.readouterr().err
    kinds = {node.op_type for node in onnx.load(tmp_path / "out" / "model.onnx").graph.node}
    assert not kinds & {"TopK", "GatherND", "ArgMax"}


@pytest.mark.e2e
def test_without_a_classifier_features_are_the_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run("test_vit", "--r", "12", "--num-classes", "0", *QUICK, "-o", str(out), "--json", "-q") == 0
    document = json.loads(capsys.readouterr().out)
    expected = {"kind": "features", "names": ["features"], "shapes": {"features": ["batch", 64]}}
    assert document["output"] == expected
    assert document["verification"][0]["passed"]
    assert document["verification"][0]["top1_agreement"] is None
    assert not document["plan"]["restore_grid"]
    model = onnx.load(out / "model.onnx")
    assert [value.name for value in model.graph.output] == ["features"]
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["tofu_export.output"]) == expected
    assert "Output: features [batch, 64]." in (out / "report.md").read_text(encoding="utf-8")


@pytest.mark.thorough
def test_a_grid_is_restored_verified_timed_and_built(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ("--r", "12", "--output-kind", "grid", "--image-size", "96x64", "--batch", "1:2:3")
    plain = ("--weights", "random", "--precision", "fp32", "-o", str(out), "--json")
    assert run("test_vit", *arguments, *plain) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["output"]["shapes"] == {"grid": ["batch", 64, 6, 4]}
    assert document["plan"]["restore_grid"]
    assert document["verification"][0]["passed"]
    assert [row["artifact"] for row in document["benchmark"]] == ["full", "model.onnx"]
    kinds = ["onnx", "engine"] if RTX in available() else ["onnx"]
    assert [entry["kind"] for entry in document["artifacts"]] == kinds
    assert "all tokens are restored after the last layer" in (out / "report.md").read_text(encoding="utf-8")


@pytest.mark.e2e
def test_the_token_map_is_verified_in_every_precision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ("--r", "12", "--token-map", "--precision", "fp32,fp16,int8", "--batch", "1:2:3")
    plain = ("--weights", "random", "--calibration-images", "8", "--no-bench", "--no-engine", "--json", "-q")
    assert run("test_vit", *arguments, *plain, "-o", str(out)) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["output"]["names"] == ["logits", "patch_groups"]
    assert document["output"]["shapes"]["patch_groups"] == ["batch", 100]
    found = [(row["artifact"], row["passed"], row["token_map"]) for row in document["verification"]]
    names = ["model.fp32.onnx", "model.fp16.onnx", "model.int8.onnx"]
    assert found == [(name, True, {"compared": 600, "wrong": 0}) for name in names]
    assert "patch_groups [batch, 100]" in (out / "report.md").read_text(encoding="utf-8")
    for page in ("report.md", "report.html"):
        assert "600 entries of its token maps compared, 0 wrong" in (out / page).read_text(encoding="utf-8")
    assert run("verify", str(out / "model.fp32.onnx"), "--batch", "2", "--json", "-q") == 0
    (row,) = json.loads(capsys.readouterr().out)["verification"]
    assert row["token_map"] == {"compared": 200, "wrong": 0}


def test_a_dry_run_says_what_comes_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("test_vit", "--output-kind", "tokens", "--dry-run") == 0
    assert "output tokens, token_map\n" in capsys.readouterr().out
    assert run("test_vit", "--output-kind", "tokens", "--token-map", "--dry-run") == 0
    assert "output tokens, token_map, patch_groups\n" in capsys.readouterr().out
    assert run("test_vit", "--output-kind", "grid", "--dry-run") == 0
    assert "grid   restored after the last layer\n" in capsys.readouterr().out


@pytest.mark.e2e
def test_labels_travel(tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(f"class {index}" for index in range(5)))
    arguments = ("--num-classes", "5", "--labels", str(labels), "--no-verify", *QUICK, "-o", str(tmp_path / "out"))
    assert run("test_vit", *arguments) == 0
    model = onnx.load(tmp_path / "out" / "model.onnx")
    stored = {entry.key: entry.value for entry in model.metadata_props}["tofu_export.labels"]
    assert json.loads(stored)[4] == "class 4"


@pytest.mark.e2e
def test_class_names_of_the_weights_travel(tmp_path: Path) -> None:
    state = timm.create_model("test_vit", num_classes=3).state_dict()
    torch.save({"state_dict": state, "classes": ["zebra", "ape", "cat"]}, tmp_path / "vit.pth")
    arguments = (*QUICK, "--no-verify", "-o", str(tmp_path / "out"), "--weights", str(tmp_path / "vit.pth"))
    assert run("test_vit", *arguments) == 0
    assert ModelCard.of_model(onnx.load(tmp_path / "out" / "model.onnx"), "model.onnx").labels == (
        "zebra",
        "ape",
        "cat",
    )


def test_wrong_number_of_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("one\ntwo\n")
    assert run("test_vit", "--labels", str(labels), *QUICK, "-o", str(tmp_path / "out")) == 2
    assert "2 labels for 1000 classes" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("vit_base", "--dry-run", "-o", str(tmp_path / "out")) == 0
    out = capsys.readouterr().out
    assert "17.58 full, 8.78 reduced" in out
    assert "model.fp32.onnx, model.fp16.onnx" in out
    assert not (tmp_path / "out").exists()


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("demo_vit", ("--r", "16", "--mode", "mlerp", "--precision", "fp16", "--engine")),
        ("demo_vit", ("--r", "0", "--precision", "fp16", "--no-engine")),
        ("demo_vit", ("--mode", "mlerp", "--precision", "bf16", "--engine")),
        ("test_vit", ("--weights", "random", "--precision", "fp32,int8", "--calibration-images", "8", "--no-engine")),
    ],
)
def test_a_dry_run_lists_exactly_the_files_of_the_job(
    model: str,
    options: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "--engine" in options and RTX not in available():
        pytest.skip("needs tensorrt-rtx")
    few_digits(monkeypatch)
    arguments = (model, *options, "--no-bench", "--no-verify", "--batch", "1", "-o", str(tmp_path / "out"))
    assert run(*arguments, "--dry-run", "--json") == 0
    planned = json.loads(capsys.readouterr().out)["files"]
    assert run(*arguments, "-q") == 0
    assert sorted(planned) == sorted(path.name for path in (tmp_path / "out").iterdir())
    assert ("tokens.json" in planned) is (model == "demo_vit" and "16" in options)
    assert (len([name for name in planned if name.endswith(".engine.json")]) == 1) is ("--engine" in options)


@pytest.mark.e2e
def test_a_wrong_file_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import tofu_export.job.pipeline as pipeline

    honest: Callable[..., Any] = pipeline.lower

    def corrupted(model: ir.Model, *arguments: Any) -> ir.Model:
        lowered: ir.Model = honest(model, *arguments)
        weight = lowered.graph.initializers["patch_embed.proj.weight"]
        assert weight.const_value is not None
        weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(1.01))
        return lowered

    monkeypatch.setattr(pipeline, "lower", corrupted)
    bundle = tmp_path / "bundle"
    assert run("test_vit", "--r", "12", *QUICK, "-o", str(tmp_path / "out"), "--bundle", str(bundle)) == 4
    err = capsys.readouterr().err
    assert "does not compute what the eager model computes" in err
    assert "the first block that differs is 0" in err
    assert f"{bundle / 'README.md'} says how to look at it closer" in err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html", "report.json", "report.md"]
    assert not json.loads((tmp_path / "out" / "report.json").read_text())["verification"][0]["passed"]
    assert (bundle / "model.onnx").stat().st_size > 1_000_000
    assert json.loads((bundle / "report.json").read_text())["verification"][0]["layers"][0]["max_abs"] > 1e-3
    assert run("test_vit", "--bundle", str(bundle), *QUICK, "-o", str(tmp_path / "other")) == 2
    assert f"--bundle {bundle} is not empty" in capsys.readouterr().err


@pytest.mark.e2e
@pytest.mark.skipif(RTX not in available(), reason="needs tensorrt-rtx")
def test_an_engine_that_cannot_be_built_is_bundled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise EngineBuildError("the builder gave up")

    monkeypatch.setattr("tofu_export.job.pipeline.build_engine", refuse)
    bundle = tmp_path / "bundle"
    arguments = ("--weights", "random", "--precision", "fp16", "--no-bench", "--no-verify", "--batch", "1:2:3")
    assert run("test_vit", *arguments, "-o", str(tmp_path / "out"), "--bundle", str(bundle)) == 6
    assert f"the builder gave up. {bundle / 'README.md'} says" in capsys.readouterr().err
    text = (bundle / "README.md").read_text(encoding="utf-8")
    assert "--compute-capabilities 8.0" in text
    assert "--trt-max-shapes 'input:[3,3,160,160]'" in text
    assert np.load(bundle / "expected.npz")["logits"].shape == (2, 1000)
    assert not (tmp_path / "out").exists()


@pytest.mark.e2e
def test_the_same_command_writes_the_same_files(tmp_path: Path) -> None:
    """In a process of its own, in which strings hash differently; FP32 and FP16."""
    out = tmp_path / "again"
    subprocess.run(
        [sys.executable, "-m", "tofu_export.cli", exported.MODEL, *exported.OPTIONS, "-o", str(out)],
        env={**os.environ, "PYTHONHASHSEED": "4711"},
        check=True,
    )
    for name in ("model.fp32.onnx", "model.fp16.onnx"):
        assert (out / name).read_bytes() == (exported.folder() / name).read_bytes()


def test_engine_asked_for_but_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(_: str | None) -> None:
        raise BackendMissingError("neither TensorRT-RTX nor TensorRT is usable here")

    monkeypatch.setattr("tofu_export.job.engines.pick", missing)
    assert run("test_vit", "--weights", "random", "--engine", "-o", str(tmp_path / "out")) == 5
    assert "neither TensorRT-RTX nor TensorRT" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.e2e
def test_without_tensorrt_the_step_is_skipped_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tofu_export.job.engines.available", lambda: ())
    out = tmp_path / "out"
    arguments = ("--weights", "random", "--precision", "fp32", "--no-bench", "--no-verify")
    assert run("test_vit", *arguments, "-o", str(out)) == 0
    skipped = {entry["step"]: entry["reason"] for entry in json.loads((out / "report.json").read_text())["skipped"]}
    assert "tofu-export[rtx]" in skipped["engines"]


@pytest.mark.e2e
@pytest.mark.parametrize("how", sampled([signal.SIGKILL, signal.SIGTERM, signal.SIGINT], [signal.SIGKILL]))
def test_killed_while_it_works(how: signal.Signals, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "tofu_export.cli", "test_vit", "--weights", "random", "-o", str(out)]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        # A shell starts background jobs with SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not list(out.glob(".tofu-export-*/model.fp32.onnx")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, how)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Traceback" not in err
    if how is signal.SIGKILL:  # the staging folder stays, until the next run
        assert all(path.name.startswith(".tofu-export-") for path in out.iterdir())
        assert run("test_vit", *QUICK, "--no-verify", "-o", str(out)) == 0
        assert sorted(path.name for path in out.iterdir()) == ["model.onnx", "report.html", "report.json", "report.md"]
    else:
        assert not out.exists()


def stopping_at(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send SIGTERM when the job begins a step, or publishes the last but one file."""
    original, publish = Progress.step, Path.replace

    def begin(self: Progress, name: str, text: str) -> AbstractContextManager[None]:
        if name == step:
            signal.raise_signal(signal.SIGTERM)
        return original(self, name, text)

    def rename(self: Path, target: Path) -> Path:
        if step == "publish" and target.name == "report.json":
            signal.raise_signal(signal.SIGTERM)
        return publish(self, target)

    monkeypatch.setattr(Progress, "step", begin)
    monkeypatch.setattr(Path, "replace", rename)


@pytest.mark.e2e
@pytest.mark.parametrize("step", ["verify fp16", "publish"])
def test_stopped_between_two_precisions_all_or_nothing_is_written(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.json").write_text("earlier")
    stopping_at(step, monkeypatch)
    arguments = ("--weights", "random", "--batch", "1", "--no-bench", "--no-engine", "-q", "-o", str(out))
    assert run("test_vit", *arguments) == 143
    err = capsys.readouterr().err
    if (
        step == "publish"
    ):  # the report, which comes last, is missing: what is there is complete, and nothing else is said
        assert err == "tofu-export: error: terminated; a file under its final name is complete\n"
        assert sorted(path.name for path in out.iterdir()) == [
            "model.fp16.onnx", "model.fp32.onnx", "report.html", "report.md",
        ]  # fmt: skip
    else:
        said = f"nothing was written to {out}: all files of a job appear together at its end"
        assert err == f"tofu-export: error: terminated; {said}\n"
        assert {path.name: path.read_text() for path in out.iterdir()} == {"report.json": "earlier"}


@pytest.mark.skipif(RTX not in available(), reason="tensorrt_rtx is not installed")
@pytest.mark.thorough
def test_turing_gets_an_engine_of_its_own(tmp_path: Path) -> None:
    """In FP16, in which its receipt has no FP32 product; and what it cannot run is said, not failed at."""
    out = tmp_path / "out"
    asked = ("--precision", "fp32,fp16", "--compute-capability", "SM75,SM89", "--batch", "1:2:3")
    assert (
        run("test_vit", "--weights", "random", "--r", "4", "--no-bench", "--no-verify", *asked, "-q", "-o", str(out))
        == 0
    )
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    engines = {entry["path"]: entry for entry in report["artifacts"] if entry["kind"] == "engine"}
    assert {name: entry["compute_capabilities"] for name, entry in engines.items()} == {
        "model.fp32.tensorrt-rtx.engine": ["SM89"],
        "model.fp16.tensorrt-rtx.engine": ["SM89"],
        "model.fp16.tensorrt-rtx.sm75.engine": ["SM75"],
    }
    assert engines["model.fp16.tensorrt-rtx.sm75.engine"]["mac_share"] == {"fp16": 1.0}
    assert 0.9 < engines["model.fp16.tensorrt-rtx.engine"]["mac_share"]["fp16"] < 1
    skipped = {entry["step"]: entry["reason"] for entry in report["skipped"]}
    assert "FP16 and int8-fp16 files only" in skipped["SM75 engine of model.fp32.onnx"]
    assert all(skipped[f"verification of {name}"] == "switched off by --no-verify" for name in engines)
    sidecar = json.loads((out / "model.fp16.tensorrt-rtx.sm75.engine.json").read_text(encoding="utf-8"))
    assert sidecar["source"]["model"] == "test_vit"
    assert sidecar["source"]["plan"] == report["plan"]
    reduced = sidecar["structure"]["parts"]
    own = sum(part["macs"] for name, part in reduced.items() if name not in ("matching", "merging"))
    onnx_file = next(entry for entry in report["artifacts"] if entry["path"] == "model.fp16.onnx")
    assert own / 1e9 == pytest.approx(onnx_file["gmacs"], abs=1e-4)
