"""PyTorch beside files in a benchmark: which model, which inputs, when it is compiled."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import exported
from tests.benchmarking.graphs import affine
from tests.cli.running import run
from tofu_export.benchmarking import torch_contenders
from tofu_export.benchmarking.backends import is_model_name, suits
from tofu_export.benchmarking.torch_contenders import TorchOptions, open_torch
from tofu_export.errors import BackendMissingError, OptionError
from tofu_export.system.ort import open_session

QUICK = ("--seconds", "0", "--warmup", "0", "--iterations", "3")


@pytest.fixture
def eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile with dynamo alone: inductor takes minutes."""
    monkeypatch.setattr(torch_contenders, "COMPILER", "eager")


def pixels(batch: int) -> dict[str, np.ndarray]:
    return {"input": np.random.default_rng(0).standard_normal((batch, 3, 160, 160), dtype=np.float32)}


@pytest.mark.e2e
def test_it_is_the_model_of_the_file() -> None:
    """The seed of the weights is another, and nothing else: reduced by the same plan, it has the same outputs."""
    path = exported.folder() / "model.fp32.onnx"
    loaded = open_torch(path, "torch", None)
    session = loaded.session
    assert dict(session.inputs) == dict(open_session(path).inputs)
    plan = exported.metadata_of("plan")
    assert float(session.metadata["tofu_export.gmacs"]) == pytest.approx(plan["gmacs"]["reduced"], abs=1e-3)
    (logits,) = session.run(pixels(2)).values()
    assert logits.shape == (2, 1000)
    model = loaded.session.form.model  # type: ignore[attr-defined]
    assert torch_contenders.patch.applied_plan(model).to_dict()["layers"] == plan["layers"]


@pytest.mark.parametrize(("file", "dtype"), [("fp16", torch.float16), ("fp32", torch.float32)])
def test_it_has_the_precision_of_the_file(file: str, dtype: torch.dtype) -> None:
    session = open_torch(exported.folder() / f"model.{file}.onnx", "torch", None).session
    form = session.form  # type: ignore[attr-defined]
    assert next(form.parameters()).dtype is dtype
    (outputs,) = session.bind(pixels(1)).call()  # type: ignore[union-attr]
    assert (outputs.dtype, outputs.device.type) == (dtype, "cpu")


def test_a_name_is_the_model_unreduced() -> None:
    session = open_torch(Path("test_vit"), "torch", None).session
    form = session.form  # type: ignore[attr-defined]
    assert torch_contenders.patch.applied_plan(form.model) is None
    assert session.inputs["input"].shape == (None, 3, 160, 160)
    assert float(session.metadata["tofu_export.gmacs"]) > float(exported.metadata_of("plan")["gmacs"]["reduced"])


@pytest.mark.e2e
def test_compiling_is_done_when_it_is_bound(eagerly: None, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = open_torch(exported.folder() / "model.fp32.onnx", "torch-compile", None)
    session = loaded.session
    for batch in (1, 2):
        bound = loaded.bind(pixels(batch))
        (note,) = bound.notes  # type: ignore[union-attr]
        assert note.startswith("compiled in ")
        assert "mode default" in note
        graphs = torch_contenders._graphs()
        assert graphs > 0
        (got,) = bound.call()  # type: ignore[union-attr]
        assert torch_contenders._graphs() == graphs  # nothing is compiled any more
        (expected,) = session.run(pixels(batch)).values()
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no C++ compiler\nand much more")

    monkeypatch.setattr(torch_contenders, "COMPILER", broken)
    loaded = open_torch(Path("test_vit"), "torch-compile", None)
    with pytest.raises(BackendMissingError, match=r"torch\.compile does not compile test_vit: .*C\+\+ compiler"):
        loaded.bind(pixels(1))


def test_a_file_of_others_has_no_model(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"a\.onnx does not say what model it is.*leave torch out"):
        open_torch(affine(tmp_path / "a.onnx"), "torch", None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BackendMissingError, match="does not find here: give --torch-device cpu"):
        open_torch(Path("test_vit"), "torch", None, TorchOptions("cuda"))
    assert run("bench", "test_vit", "--backend", "torch", "--torch-device", "cuda", *QUICK) == 5
    assert "--torch-device cpu" in capsys.readouterr().err


def test_names_and_files_have_backends_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_model_name(Path("vit_base_patch16_224.mae"))
    assert not is_model_name(Path("gone.onnx")) and not is_model_name(Path("out/vit_base"))
    assert suits(Path("vit_base"), "torch") and not suits(Path("vit_base"), "ort-cpu")
    assert suits(Path("a.onnx"), "torch-compile") and not suits(Path("a.engine"), "torch")


def test_the_command_times_all_of_them(eagerly: None, capsys: pytest.CaptureFixture[str]) -> None:
    path = exported.folder() / "model.fp32.onnx"
    backends = "ort-cpu,torch,torch-compile"
    threads = torch.get_num_threads()
    try:
        assert run("bench", "test_vit", str(path), "--backend", backends, *QUICK, "--threads", "1", "--json") == 0
    finally:
        torch.set_num_threads(threads)
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert [(row["artifact"], row["backend"]) for row in document["benchmark"]] == [
        ("test_vit (torch)", "torch"),
        ("test_vit (torch-compile)", "torch-compile"),
        ("model.fp32.onnx (ort-cpu)", "ort-cpu"),
        ("model.fp32.onnx (torch)", "torch"),
        ("model.fp32.onnx (torch-compile)", "torch-compile"),
    ]
    assert document["settings"]["torch"] == {"device": "cpu", "compile_mode": "default", "weights": "random"}
    assert document["settings"]["gpu"] == {"cuda_graph": False, "transfers": True, "streams": 1}
    assert err.count("compiled in ") == 2
    assert document["warnings"] == []
    assert {entry["artifact"] for entry in document["realised"]} == {"model.fp32.onnx (torch)"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("FILE", "--torch-device", "cpu"), "--torch-device and --compile-mode are for torch"),
        (("FILE", "--compile-mode", "max-autotune"), "--torch-device and --compile-mode are for torch"),
        (("FILE", "--cuda-graph"), "are for plans, not for ort-cpu"),
        (("FILE", "--no-transfers"), "are for plans"),
        (("FILE", "--streams", "2"), "are for plans"),
        (("no_such_model", "--backend", "torch"), "no_such_model"),
        (
            ("vit_base", "--backend", "ort-cpu"),
            "there is no file vit_base to run on ort-cpu: give a file's path, or for a model",
        ),
    ],
)
def test_what_cannot_be_used(arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(exported.folder() / "model.fp32.onnx")
    assert run("bench", *(path if part == "FILE" else part for part in arguments), *QUICK) == 2
    assert words in capsys.readouterr().err


def test_the_real_compiler() -> None:
    loaded = open_torch(Path("test_vit"), "torch-compile", None)
    (got,) = loaded.bind(pixels(1)).call()  # type: ignore[union-attr]
    (expected,) = loaded.session.run(pixels(1)).values()
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-3, atol=1e-4)
