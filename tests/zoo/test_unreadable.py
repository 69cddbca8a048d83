"""A file that is no checkpoint: what it is instead."""

from __future__ import annotations

import argparse
import bz2
import gzip
import shutil
import tarfile
import zipfile
from pathlib import Path, PosixPath, PurePosixPath

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from tofu_export.errors import WeightsError
from tofu_export.zoo._checkpoint import read_checkpoint
from tofu_export.zoo._jax import load_npz

STATE = {"fc.weight": torch.ones(2, 3)}


def said(path: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(path.name)
    assert "\n" not in message
    assert "weights_only" not in message
    return message


def refused(path: Path) -> str:
    """What reading says of it, for archives of numpy as well."""
    with pytest.raises(WeightsError) as caught:
        if path.suffix == ".npz":
            load_npz(timm.create_model("test_vit"), path, name="test_vit")
        read_checkpoint(path)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin", ".npz", ".safetensors.index.json"])
def test_texts_in_place_of_weights(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"vit{suffix}"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00ff\nsize 12\n")
    assert "git-lfs" in refused(path)
    path.write_text("version https://git-lfs.github.com/spec/v1\n", encoding="utf-8-sig")
    assert "git-lfs" in refused(path)
    path.write_text("\n<!DOCTYPE HTML><html><body>Sign in</body></html>")
    assert "web page (HTML)" in refused(path)
    path.write_text('{"error": "Repository not found"}')
    assert "Repository not found" in refused(path) or "weight_map" in refused(path)


def test_another_suffix(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "a.safetensors")
    assert said(tmp_path / "a.safetensors").endswith("rename it to a.pth")
    save_file(STATE, tmp_path / "b.ckpt")
    assert said(tmp_path / "b.ckpt").endswith("rename it to b.safetensors")


def test_compressed(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "a.pth")
    content = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "b.pth").write_bytes(gzip.compress(content))
    (tmp_path / "c.safetensors").write_bytes(bz2.compress(content))
    assert "gzip" in said(tmp_path / "b.pth")
    assert "bzip2" in said(tmp_path / "c.safetensors")


def test_a_zip_of_a_folder(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "b.pth", "w") as archive:
        archive.write(tmp_path / "a.pth", "folder/a.pth")
    assert "unpack it first" in said(tmp_path / "b.pth")


@pytest.mark.filterwarnings("ignore")
def test_torchscript(tmp_path: Path) -> None:
    torch.jit.trace(torch.nn.Linear(3, 2), torch.zeros(1, 3)).save(str(tmp_path / "a.pt"))
    assert "save the state_dict() of it" in said(tmp_path / "a.pt")
    shutil.copy(tmp_path / "a.pt", tmp_path / "b.safetensors")
    assert "TorchScript" in said(tmp_path / "b.safetensors")


def test_an_exported_program(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(torch.nn.Linear(3, 2), (torch.zeros(1, 3),)), tmp_path / "a.pt2")
    shutil.copy(tmp_path / "a.pt2", tmp_path / "a.pt")
    assert "torch.export.load('a.pt').state_dict" in said(tmp_path / "a.pt")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
def test_archives(tmp_path: Path, suffix: str) -> None:
    """A tar archive of a zip archive ends as one."""
    torch.save(STATE, tmp_path / "a.pth")
    with tarfile.open(tmp_path / f"b{suffix}", "w") as archive:
        archive.add(tmp_path / "a.pth", "a.pth")
    assert "tar archive: unpack it first" in refused(tmp_path / f"b{suffix}")
    with zipfile.ZipFile(tmp_path / f"c{suffix}", "w") as packed:
        packed.write(tmp_path / "a.pth", "a.pth")
    assert "zip archive without weights of PyTorch" in refused(tmp_path / f"c{suffix}")


def test_arrays_of_numpy(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones(3))
    shutil.move(tmp_path / "a.npy", tmp_path / "a.pth")
    assert "one array of numpy" in said(tmp_path / "a.pth")


@pytest.mark.parametrize("content", [[STATE], (STATE, 3), list(STATE.items())])
def test_a_state_dict_in_something_else_is_not_called_damaged(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "a.pth")
    assert f"holds a {type(content).__name__}, no state dict" in said(tmp_path / "a.pth")


def test_settings_beside_weights(tmp_path: Path) -> None:
    """Folders, and the states of random numbers that training scripts store to go on."""
    options = argparse.Namespace(output=PosixPath("runs/1"), data=PurePosixPath("images"))
    content = {"model": STATE, "args": options, "random": np.random.RandomState(0).get_state(), "best": np.ones((2, 2))}
    torch.save(content, tmp_path / "a.pth")
    found = read_checkpoint(tmp_path / "a.pth")
    assert str(found["args"].output) == "runs/1"
    assert found["best"].shape == (2, 2)
