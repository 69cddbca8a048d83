"""Bad input: one clear line, the right exit code, nothing left behind."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import timm
import torch

from tests.cli.running import run
from tests.engines import models

RANDOM = ("--weights", "random")


def checkpoint(folder: Path, name: str, model: str, **kwargs: int) -> Path:
    path = folder / name
    torch.save(timm.create_model(model, **kwargs).state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("vit_bse", *RANDOM), 2, ["unknown model 'vit_bse'", "vit_base"]),
        (("test_vit", "--r", "-3"), 2, ["r is '-3'", "--r 16"]),
        (("test_vit", "--r", "many"), 2, ["r is 'many'"]),
        (("test_vit", "--r", "1,2", *RANDOM), 2, ["r lists 2 layers", "6"]),
        (("test_vit", "--pattern", "PPP", *RANDOM), 2, ["'PPP' has 3 letters", "6 layers"]),
        (("test_vit", "--pattern", "PPXPPP"), 2, ["letter 'X'"]),
        (("test_vit", "--prop-attn", "maybe", *RANDOM), 2, ["'maybe' is not one of", "'auto', 'on', 'off'"]),
        (("test_vit", "--precision", "fp31"), 2, ["'fp31'", "fp32, fp16, bf16"]),
        (("test_vit", "--batch", "8:4:1"), 2, ["8:4:1", "MIN:OPT:MAX"]),
        (("test_vit", "--batch", "lots"), 2, ["'lots'", "MIN:OPT:MAX"]),
        (("test_vit", "--bench-batch", "0", *RANDOM), 2, ["--bench-batch"]),
        (("test_vit", "--mode", "magic"), 2, ["'magic'"]),
        (("test_vit", "--image-size", "37", *RANDOM), 2, ["37x37", "32x32"]),
        (("test_vit", "--weights", "missing.pth"), 2, ["missing.pth", "no such file"]),
        (("test_vit", "--images", "missing", *RANDOM), 2, ["missing", "no such folder"]),
        (("test_vit", "--labels", "missing.txt", *RANDOM), 2, ["missing.txt"]),
        (("test_vit", "--engine", "--target", "onnxruntime", *RANDOM), 2, ["--target portable"]),
        (("resnet50", *RANDOM), 3, ["ResNet", "docs/models.md"]),
        (("swin_tiny_patch4_window7_224", *RANDOM), 3, ["SwinTransformer", "docs/models.md"]),
        (("xcit_nano_12_p16_224", *RANDOM), 3, ["Xcit", "convolves", "docs/models.md"]),
        (("test_vit", "--r", "8", "--speedup", "2"), 2, ["r and speedup", "give one of"]),
        (("test_vit", "--r", "16", "--keep-rate", "0.9"), 2, ["r and keep_rate", "give one of"]),
        (("test_vit", "--keep-rate", "1.5"), 2, ["keep_rate is 1.5", "at most 1"]),
        (("test_vit", "--exclude-layers", "first"), 2, ["'first'", "--exclude-layers 0,11"]),
        (("test_vit", "--exclude-layers", "6", *RANDOM), 2, ["6 layers are 0 to 5"]),
        (("test_vit", "--speedup", "100", *RANDOM), 2, ["speedup of 100 is out of reach", "GMACs"]),
        (("test_vit", "--output-kind", "heatmap"), 2, ["'heatmap'", "'grid'"]),
        (("test_vit", "--output-kind", "grid", "--no-restore-grid", *RANDOM), 2, ["--no-restore-grid", "tokens"]),
        (("test_vit", "--output-kind", "logits", "--num-classes", "0", *RANDOM), 2, ["no classifier", "features"]),
        (("test_vit", "--output-kind", "logits", "--num-classes", "0", "--dry-run"), 2, ["no classifier", "features"]),
        (("test_vit", "--nonsense"), 2, ["--nonsense"]),
        ((), 2, ["MODEL"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_one_clear_line(
    arguments: tuple[str, ...],
    code: int,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == code if arguments else run("export") == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tofu-export: error: ")
    assert err.count("\n") == 1
    assert all(word in err for word in words), err
    assert list(tmp_path.iterdir()) == []


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (("plan", "test_vit", "-o"), "plan.json"),
        (("analyze", "test_vit", "-o"), "linearity.json"),
        (("analyze", "test_vit", "--figure"), "linearity.svg"),
        (("eval", "test_vit", "-o"), "eval.json"),
        (("tokens", "model.onnx", "dog.jpg", "-o"), "tokens.png"),
        (("lower", "model.onnx", "-o"), "lowered.onnx"),
        (("tune", "test_vit", "--speedup", "2", "-o"), "tuned.json"),
        (("tune", "test_vit", "--speedup", "2", "--state"), "state.jsonl"),
        (("report", "out", "-o"), "page.html"),
        (("bench", "model.onnx", "--csv"), "times.csv"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_folder_where_a_file_is_written(
    command: tuple[str, ...],
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    (tmp_path / "file").write_text("mine")
    before = contents(tmp_path)
    assert run(*command, name) == 2
    said = f"error: {command[-1]}: {name} is a folder, expected the name of a file to write\n"
    assert capsys.readouterr().err == f"tofu-export: {said}"
    assert run(*command, f"file/{name}") == 2
    assert "cannot write to file: it is a file, expected a folder" in capsys.readouterr().err
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "command",
    [
        ("test_vit",),
        ("test_vit", "--dry-run"),
        ("unet", "tiny", "--weights", "random"),
        ("sweep", "test_vit"),
        ("sweep", "test_vit", "--dry-run"),
        ("triton", "model.onnx"),
    ],
    ids=" ".join,
)
def test_a_file_where_a_folder_is_written(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").write_text("mine")
    for path, there in (("out", "it"), ("out/deeper", tmp_path / "out")):
        assert run(*command, "-o", path) == 2
        assert (
            f"error: -o: cannot write to {path}: {there} is a file, expected a folder. Choose"
            in capsys.readouterr().err
        )
    assert contents(tmp_path) == {str(tmp_path / "out"): b"mine"}


@pytest.mark.parametrize("spoil", ["truncated", "other_model", "other_head", "pickle", "empty", "text"])
def test_bad_checkpoints(spoil: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["missing", "unknown"]
    if spoil == "other_model":
        path = checkpoint(tmp_path, "w.pth", "test_vit2")
    elif spoil == "other_head":
        path = checkpoint(tmp_path, "w.pth", "test_vit", num_classes=7)
        words = ["--num-classes 7"]
    else:
        path = checkpoint(tmp_path, "w.pth", "test_vit")
        words = ["w.pth"]
        if spoil == "truncated":
            path.write_bytes(path.read_bytes()[:5000])
        elif spoil == "empty":
            path.write_bytes(b"")
        elif spoil == "text":
            path.write_text("not a checkpoint")
        else:
            path.write_bytes(pickle.dumps(_Malicious(tmp_path / "executed")))
    classes = ["--num-classes", "5"] if spoil == "other_head" else []
    assert run("test_vit", "--weights", str(path), *classes, "-o", str(tmp_path / "out")) == 3
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith("tofu-export: error: ")
    assert "Traceback" not in err
    assert all(word in err for word in words), err
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "executed").exists()


class _Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, (f"touch {self.path}",))


def test_output_that_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "taken"
    target.write_text("mine")
    assert run("test_vit", *RANDOM, "-o", str(target)) == 2
    assert "cannot write to" in capsys.readouterr().err
    assert target.read_text() == "mine"


def test_an_opset_that_torch_cannot_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ("--opset", "99", "--precision", "fp32", "--no-bench", "--no-engine", "-q")
    assert run("test_vit", *RANDOM, *quick, "-o", str(tmp_path / "out")) == 2
    assert "opset 18 where 99 was asked for" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_pretrained_offline_names_the_two_ways_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    assert run("vit_tiny", "-o", str(tmp_path / "out")) == 3
    err = capsys.readouterr().err
    assert "--weights PATH" in err
    assert "--weights random" in err
    assert not (tmp_path / "out").exists()


def test_a_defect_of_ours_is_one_line_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def explode(*_: object, **__: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("tofu_export.zoo.specs.plan_model", explode)
    assert run("plan", "vit_base") == 1
    err = capsys.readouterr().err
    assert "unexpected KeyError" in err
    assert err.count("\n") == 1


def test_a_library_that_finds_no_memory_is_no_defect_of_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def explode(*_: object, **__: object) -> None:
        raise ImportError("libtorch_cpu.so: failed to map segment from shared object")

    monkeypatch.setattr("tofu_export.zoo.specs.plan_model", explode)
    assert run("plan", "vit_base") == 1
    err = capsys.readouterr().err
    assert err.startswith("tofu-export: error: out of memory: ")
    assert "defect" not in err


def test_an_interrupt_that_a_library_turns_into_another_error_is_an_interrupt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As an import of a native module does."""

    def explode(*_: object, **__: object) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("numpy failed to import") from None

    monkeypatch.setattr("tofu_export.zoo.specs.plan_model", explode)
    assert run("plan", "vit_base") == 130
    assert capsys.readouterr().err.startswith("tofu-export: error: interrupted")


DEEP = "[" * 100_000
"""JSON that no reader follows to its end: a RecursionError, which is no ValueError."""


def nested(folder: Path, kind: str) -> tuple[str, ...]:
    """A file of this kind that holds it, and the command line that reads it."""
    folder.mkdir()
    if kind in ("verify", "triton", "lint"):
        proto = models.block()
        keys = ("model", "plan", "weights", "output", "batch", "preprocessing", "labels", "num_classes")
        onnx.helper.set_model_props(proto, {f"tofu_export.{key}": DEEP for key in keys})
        path = models.save(proto, folder)
        return (kind, str(path), *(("-o", str(folder.parent / "out")) if kind == "triton" else ()))
    if kind == "check":
        (folder / "x.engine").write_bytes(b"plan")
        (folder / "x.engine.json").write_text(DEEP)
        return ("check", str(folder / "x.engine"))
    (folder / "config.json").write_text(DEEP)
    if kind == "unet":
        return ("unet", str(folder), "--dry-run")
    return ("plan", f"local-dir:{folder}")


@pytest.mark.parametrize("kind", ["verify", "triton", "lint", "check", "plan", "unet"])
def test_documents_in_documents_without_end(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(*nested(tmp_path / "in", kind))
    out, err = capsys.readouterr()
    assert code in ((0, 7) if kind == "lint" else range(2, 8)), err
    assert "defect" not in err
    assert "Traceback" not in out + err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="a file system that takes any bytes as a name")
@pytest.mark.parametrize("command", ["lint", "lower", "bench"])
def test_a_name_that_is_not_text(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """onnxruntime opens no path that is not UTF-8: that is said, or nothing has to open one."""
    folder = tmp_path / os.fsdecode(b"\xff\xfe")
    folder.mkdir()
    path = models.save(models.block(), folder)
    more = {"lower": ("-o", str(folder / "out.onnx")), "bench": ("--seconds", "0"), "lint": ()}[command]
    code = run(command, str(path), *more)
    err = capsys.readouterr().err
    assert code == 0 if command == "lint" else code == 3 and "not UTF-8" in err
    assert [entry.name for entry in folder.iterdir()] == ["model.onnx"]


def test_as_a_process(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tofu_export.cli", "vit_base", "--r", "-1"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("tofu-export: error: ")


def test_a_required_package_that_is_gone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def examine() -> None:
        raise ModuleNotFoundError("No module named 'timm.models'", name="timm.models")

    monkeypatch.setattr("tofu_export.job.doctor.examine", examine)
    assert run("doctor") == 5
    assert "the package timm is missing: `tofu-export doctor` says how to install it" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["tofu_export.gone", None])
def test_a_module_of_ours_that_is_gone_is_a_defect(
    name: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def examine() -> None:
        raise ModuleNotFoundError("No module", name=name)

    monkeypatch.setattr("tofu_export.job.doctor.examine", examine)
    assert run("doctor") == 1
    assert "This is a defect" in capsys.readouterr().err
