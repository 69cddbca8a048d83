"""A checkpoint in the format of A-ViT through the whole job: gate, places, files, verification, report."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.cli.running import run
from tests.zoo.checkpoints import filled
from tests.zoo.jax_arrays import make
from tofu_export.system.ort import open_session

GATE = {"scale": 2.0, "center": 1.0, "least": 0.01}
ASKED = ("--select", "halting", "--precision", "fp32,fp16", "--batch", "1:2:3", "--no-engine", "--no-bench", "-q")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "checkpoint.pth"
    args = Namespace(model="avit_tiny_patch16_224", gate_scale=GATE["scale"], gate_center=GATE["center"])
    torch.save({"model": filled(make()).state_dict(), "args": args}, path)
    return str(path)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for index in range(6):
        pixels = rng.integers(0, 256, size=(160, 160, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return str(folder)


@pytest.mark.e2e
def test_places_are_measured_and_files_verified(
    tmp_path: Path, checkpoint: str, images: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ("test_vit", "--weights", checkpoint, "--images", images, "--capacity", "1.0")
    assert run(*arguments, *ASKED, "--token-map", "--json", "-o", str(out)) == 0
    report = json.loads(capsys.readouterr().out)
    plan = report["plan"]
    assert (plan["select"], plan["halting"], plan["prop_attn"]) == ("halting", GATE, False)
    removed = [row["removed"] for row in plan["layers"]]
    assert removed[0] == 0
    assert sum(removed) > 0
    assert plan["asked"] == {"r": removed}
    assert plan["gmacs"]["reduced"] < plan["gmacs"]["full"]
    assert report["output"]["names"] == ["logits", "tokens_over_capacity", "patch_groups"]
    assert all(entry["passed"] for entry in report["verification"])
    for precision in ("fp32", "fp16"):
        path = str(out / f"model.{precision}.onnx")
        assert run("verify", path, "--weights", checkpoint, "--images", images, "--batch", "1", "-q") == 0
        assert open_session(Path(path)).outputs["tokens_over_capacity"].dtype == np.int64


@pytest.mark.e2e
def test_without_a_capacity_nothing_leaves(tmp_path: Path, checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("test_vit", "--weights", checkpoint, *ASKED, "--json", "-o", str(tmp_path / "out")) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["plan"]["r"] == 0
    assert report["plan"]["halting"] == GATE
    assert all(entry["passed"] and entry["decisions"]["compared"] for entry in report["verification"])


def test_places_are_not_measured_on_generated_images(
    tmp_path: Path, checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("test_vit", "--weights", checkpoint, *ASKED, "--capacity", "0.9", "-o", str(tmp_path / "out")) == 2
    assert "generated ones say nothing: give real ones with --images" in capsys.readouterr().err.replace("\n", " ")


def test_tokens_that_halt_are_no_output(checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Said at once, also by a dry run."""
    asked = ("test_vit", "--weights", checkpoint, *ASKED, "--output-kind", "tokens", "-o", str(tmp_path / "out"))
    for more in ((), ("--dry-run",)):
        assert run(*asked, *more) == 2
        assert "only the class token has an output: ask for --output-kind logits or features" in capsys.readouterr().err
