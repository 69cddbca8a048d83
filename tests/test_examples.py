"""The examples do what they say, as far as this machine can."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from timm.data import create_transform

from tests.cli.running import run
from tests.digits import few_digits
from tofu_export import demo
from tofu_export.engines.flavours import RTX, available
from tofu_export.images.inputs import demo_set
from tofu_export.system.environment import collect

EXAMPLES = Path(__file__).parent.parent / "examples"


def python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **variables})


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("examples") / "out"
    engine = "--engine" if RTX in available() else "--no-engine"
    arguments = ["demo_vit", "--r", "16", "--mode", "mlerp", "--precision", "fp32", "--no-bench", "--no-verify"]
    with pytest.MonkeyPatch.context() as patch:
        few_digits(patch)
        assert run(*arguments, engine, "-q", "-o", str(out)) == 0
    return out


@pytest.mark.e2e
def test_onnxruntime_reads_digits(exported: Path, tmp_path: Path) -> None:
    images, labels = demo.load_images()
    for index in (1, 3, 4):  # which the model reads right
        picture = tmp_path / f"{index}.png"
        Image.fromarray(images[index].reshape(28, 28)).save(picture)
        done = python(str(EXAMPLES / "infer_onnxruntime.py"), str(exported / "model.onnx"), str(picture))
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == str(labels[index])


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize(("size", "crop_pct"), [((64, 64), 0.9), ((64, 48), 1.0)])
def test_onnxruntime_prepares_images_as_timm_does(
    mode: str, size: tuple[int, int], crop_pct: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {"input_size": (3, *size), "interpolation": "bicubic", "crop_pct": crop_pct, "crop_mode": mode,
              "mean": (0.5, 0.4, 0.3), "std": (0.5, 0.6, 0.7)}  # fmt: skip
    rows, columns = np.mgrid[0:91, 0:151]
    ramp = np.stack([columns * 1.5, rows * 2.5, (rows + columns) % 256], -1).astype(np.uint8)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    seen: list[np.ndarray] = []

    class Session:
        def __init__(self, *arguments: object) -> None:
            pass

        def get_modelmeta(self) -> SimpleNamespace:
            return SimpleNamespace(custom_metadata_map={"tofu_export.preprocessing": json.dumps(wanted)})

        def run(self, outputs: None, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            seen.append(feeds["input"][0])
            return [np.zeros((1, 2))]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(sys, "argv", ["infer", "model.onnx", str(tmp_path / "ramp.png")])
    runpy.run_path(str(EXAMPLES / "infer_onnxruntime.py"))
    expected = create_transform(**wanted, is_training=False)(Image.open(tmp_path / "ramp.png")).numpy()
    assert np.abs(seen[0] - expected).max() < 1e-5


@pytest.mark.rtx
@pytest.mark.skipif(RTX not in available(), reason="tensorrt-rtx is not installed")
def test_tensorrt_reads_digits_or_misses_the_driver(exported: Path, tmp_path: Path) -> None:
    images = tmp_path / "images.npy"
    np.save(images, demo_set(8).pixels)
    (engine,) = exported.glob("*.engine")
    done = python(str(EXAMPLES / "infer_tensorrt.py"), str(engine), str(images), POLYGRAPHY_USE_TENSORRT_RTX="1")
    if collect().gpu is None:
        assert done.returncode != 0
        assert "Could not deserialize engine" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert done.stdout.split()[3:] == [str(label) for label in demo.load_images()[1][3:8]]
