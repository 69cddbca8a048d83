"""`tofu-export build` from outside: what it prints, what it leaves behind, what it refuses."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.cli.running import run
from tests.engines import models
from tofu_export.errors import OutputError

pytestmark = [
    pytest.mark.rtx,
    pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed"),
]

RTX = ("--flavour", "tensorrt-rtx")


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def test_engine_sidecar_and_receipt(tmp_path, out, capsys):
    path = models.save(models.block("fp16"), tmp_path)
    assert run("build", str(path), "-o", str(out), "--batch", "1:2:4", "-v") == 0
    stdout, err = capsys.readouterr()
    assert stdout == ""
    assert left(out) == ["model.tensorrt-rtx.engine", "model.tensorrt-rtx.engine.json"]
    for words in (
        "for SM80, SM86",
        "precision fp16: 100.0% fp16 of the multiply-accumulates (2 fp16 layers)",
        "shapes of x: 1x16x32 | 2x16x32 | 4x16x32",
        "part ",
        "mlp ",
        "total ",
    ):
        assert words in err
    document = json.loads((out / "model.tensorrt-rtx.engine.json").read_text(encoding="utf-8"))
    assert document["structure"]["mac_share"] == {"fp16": 1.0}
    assert document["extra"]["command"].startswith("tofu-export build ")
    assert document["engine"]["file"] == "model.tensorrt-rtx.engine"


@pytest.mark.e2e
def test_json_is_one_document_and_turing_has_its_own(tmp_path, out, capsys):
    proto = models.block("fp16")
    proto.metadata_props.add(key="tofu_export.precision", value="fp16")
    proto.metadata_props.add(key="tofu_export.preprocessing", value='{"mean": [0.5]}')
    path = models.save(proto, tmp_path)
    asked = ("--compute-capability", "SM75,SM89", "-o", str(out / "tiny.engine"))
    assert run("build", str(path), *RTX, *asked, "--json", "-q") == 0
    stdout, err = capsys.readouterr()
    assert err == ""
    document = json.loads(stdout)
    engines = {entry["engine"]["file"]: entry for entry in document["engines"]}
    assert engines["tiny.engine"]["compute_capabilities"] == ["SM89"]
    assert engines["tiny.sm75.engine"]["compute_capabilities"] == ["SM75"]
    assert engines["tiny.engine"]["source"] == {"precision": "fp16", "preprocessing": {"mean": [0.5]}}
    assert left(out) == ["tiny.engine", "tiny.engine.json", "tiny.sm75.engine", "tiny.sm75.engine.json"]


def test_a_folder_that_is_still_to_be_made(tmp_path, out):
    path = models.save(models.block(), tmp_path)
    assert run("build", str(path), "-q", "-o", f"{out / 'new'}/") == 0
    assert left(out / "new") == ["model.tensorrt-rtx.engine", "model.tensorrt-rtx.engine.json"]


def test_dynamic_axes_by_name(tmp_path, out, capsys):
    path = models.save(models.block(tokens="tokens"), tmp_path)
    asked = ("-o", str(out), "--min-shapes", "x:1x4x32", "--opt-shapes", "x:2x16x32", "--max-shapes", "x:4x64x32")
    assert run("build", str(path), *asked) == 0
    err = capsys.readouterr().err
    assert "shapes of x: 1x4x32 | 2x16x32 | 4x64x32" in err
    assert "note: file: input 'x' leaves more than its batch open" in err


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("proto", "arguments", "code", "words"),
    [
        (models.scatter("add"), (), 6, ["'/blocks.0/ScatterElements'", "one-hot MatMul"]),
        (
            models.block(),
            ("--compute-capability", "SM89,SM75"),
            6,
            ["blocks.0, mlp: node '/blocks.0/mlp/MatMul'", "SM75"],
        ),
        (models.block(), ("--compute-capability", "SM90"), 2, ["SM90", "SM89"]),
        (models.block(), ("--precision", "fp16"), 7, ["fp16 was asked for", "2 fp32"]),
        (models.fp32_island(), ("--precision", "fp16"), 7, ["50.0%", "at least 90%"]),
        (models.block(), ("--min-share", "0.5"), 2, ["--precision fp16"]),
        (models.block(tokens="t"), (), 2, ["axis 1", "--opt-shapes x:1x1x32"]),
        (models.block(), ("--opt-shapes", "z:1"), 2, ["inputs of the file are: x"]),
        (models.block(), ("--batch", "4:2:1"), 2, ["MIN:OPT:MAX"]),
        (models.block(), ("--workspace", "lots"), 2, ["'lots'", "512M"]),
        (models.block(), ("--workspace", "1000"), 6, ["raise the workspace limit"]),
        (models.block(), ("--builder-opt-level", "5"), 2, ["same plan", "leave it out"]),
        (models.block(), ("--timing-cache", "c.bin"), 2, ["--timing-cache does not work with tensorrt-rtx"]),
        (models.block(), ("--strip-weights",), 2, ["needs a GPU"]),
        (models.block(), ("--flavour", "tensorrt"), 5, ["tensorrt is not installed"]),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_one_clear_message_and_nothing_left(proto, arguments, code, words, tmp_path, out, capsys):
    path = models.save(proto, tmp_path)
    assert run("build", str(path), "-o", str(out / "deep" / "model.engine"), "--json", *arguments) == code
    stdout, err = capsys.readouterr()
    assert stdout == ""
    assert err.startswith("tofu-export: error: ")
    assert all(word in err for word in words), err
    assert "Traceback" not in err
    assert left(out) == []


@pytest.mark.parametrize("content", [None, b"", b"text", models.block().SerializeToString()[:-9]])
def test_broken_input(content, tmp_path, out, capsys):
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    assert run("build", str(path), "-o", str(out)) == (2 if content is None else 6)
    assert capsys.readouterr().err.count("\n") == 1
    assert left(out) == []


@pytest.mark.e2e
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_cancelled(sent, code, tmp_path, out):
    """The signal comes while the builder process runs: it goes too, and nothing stays."""
    path = models.save(models.block(), tmp_path)
    command = [sys.executable, "-m", "tofu_export.cli", "build", str(path), "-o", str(out)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        requests: list[Path] = []
        end = time.monotonic() + 30
        while not requests and process.poll() is None and time.monotonic() < end:
            requests = list(out.rglob("request.json"))
            time.sleep(0.02)
        os.kill(process.pid, sent)
        err = process.communicate(timeout=30)[1]
    assert requests
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert left(out) == []


@pytest.mark.e2e
def test_full_disk(tmp_path, out, capsys):
    """A file system with room for the request, and none for the plan."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tofu-export-test", str(out)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        path = models.save(models.block(), tmp_path)
        assert run("build", str(path), "-o", str(out / "model.engine")) == OutputError.exit_code
        err = capsys.readouterr().err
        assert "No space left on device" in err
        assert "Traceback" not in err
        assert left(out) == []
    finally:
        subprocess.run(["umount", str(out)], check=True)


def test_what_cannot_be_built_is_bundled(tmp_path, out, capsys):
    """The file, its inputs and what they should give, and the commands with what was asked for."""
    path, bundle = models.save(models.scatter("add"), tmp_path), tmp_path / "bundle"
    asked = ("--compute-capability", "SM89", "--batch", "1:2:3", "-o", str(out))
    assert run("build", str(path), *RTX, *asked, "--bundle", str(bundle), "-q") == 6
    err = capsys.readouterr().err
    assert err.endswith(f"{bundle / 'README.md'} says how to look at it closer\n")
    assert (bundle / "model.onnx").read_bytes() == path.read_bytes()
    text = (bundle / "README.md").read_text(encoding="utf-8")
    assert "polygraphy convert" in text
    assert "--compute-capabilities 8.9" in text
    report = json.loads((bundle / "report.json").read_text(encoding="utf-8"))
    assert "ScatterElements" in report["error"]
    assert report["command"].startswith("tofu-export build ")
    assert left(out) == []
    assert run("build", str(path), "--bundle", str(bundle), "-q") == 2
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.e2e
def test_the_inputs_of_a_bundle_are_those_of_the_profile(tmp_path, out):
    path, bundle = models.save(models.block(tokens="tokens"), tmp_path), tmp_path / "bundle"
    shapes = ("--min-shapes", "x:1x4x32", "--opt-shapes", "x:2x16x32", "--max-shapes", "x:4x64x32")
    asked = ("--precision", "fp16", "-o", str(out), *shapes)
    assert run("build", str(path), *asked, "--bundle", str(bundle), "-q") == 7
    assert np.load(bundle / "inputs.npz")["x"].shape == (2, 16, 32)
    assert np.load(bundle / "expected.npz")["y"].shape == (2, 16, 32)


@pytest.mark.e2e
def test_no_bundle_where_nothing_fails_or_nothing_can_be_read(tmp_path, out, capsys):
    bundle = tmp_path / "bundle"
    path = models.save(models.block(), tmp_path)
    assert run("build", str(path), "-o", str(out), "--bundle", str(bundle), "-q") == 0
    path.write_bytes(b"text")
    assert run("build", str(path), "-o", str(out / "again.engine"), "--bundle", str(bundle), "-q") == 6
    assert "no bundle was written" in capsys.readouterr().err
    assert not bundle.exists()
