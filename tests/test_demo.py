from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tofu_export import demo
from tofu_export.errors import WeightsError
from tofu_export.images.inputs import demo_set
from tofu_export.zoo.create import create_model
from tofu_export.zoo.weights import WeightsSource


def test_images_are_balanced_digits() -> None:
    images, labels = demo.load_images()
    assert images.dtype == labels.dtype == np.uint8
    assert images.shape == (len(labels), 28, 28)
    assert np.bincount(labels).tolist() == [len(labels) // 10] * 10
    assert images.min() == 0
    assert images.max() == 255


def test_the_files_stay_small() -> None:
    files = [demo.weights_path(), demo.weights_path().with_name("demo_images.npz")]
    assert all(file.stat().st_size <= 4 * 2**20 for file in files)


def test_the_structure_is_that_of_the_paper_in_small() -> None:
    model = demo.build_model()
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    width = shapes["cls_token"][-1]
    assert shapes["pos_embed"] == (1, 197, width)
    assert shapes["patch_embed.proj.weight"] == (width, 1, 2, 2)
    assert shapes["head.weight"] == (10, width)
    assert sum(name.endswith("attn.qkv.weight") for name in shapes) == 12
    assert width % 32 == 0


def test_held_out_accuracy() -> None:
    loaded = create_model("demo_vit", weights=WeightsSource.parse("pretrained"))
    inputs = torch.from_numpy(demo_set(200).pixels)
    labels = torch.from_numpy(demo.load_images()[1][:200])
    accuracy = float((loaded.model(inputs).argmax(dim=-1) == labels).float().mean())
    assert accuracy >= 0.96


def test_a_missing_file_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_FOLDER", tmp_path)
    for read in (demo.weights_path, demo.load_images, demo.build_model):
        with pytest.raises(WeightsError, match="is missing: reinstall tofu-export"):
            read()


def test_a_damaged_file_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "demo_vit.safetensors").write_bytes(demo.weights_path().read_bytes()[:50])
    monkeypatch.setattr(demo, "_FOLDER", tmp_path)
    with pytest.raises(WeightsError, match="is damaged"):
        demo.build_model()
