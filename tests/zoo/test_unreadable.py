"""A file that is no checkpoint: what it is instead."""

from __future__ import annotations

import bz2
import gzip
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tofu_export.errors import WeightsError
from tofu_export.zoo._checkpoint import read_checkpoint

STATE = {"fc.weight": torch.ones(2, 3)}


def said(path: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(path.name)
    assert "\n" not in message
    assert "weights_only" not in message
    return message


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin"])
def test_texts_in_place_of_weights(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"vit{suffix}"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00ff\nsize 12\n")
    assert "git-lfs" in said(path)
    path.write_text("\n<!DOCTYPE HTML><html><body>Sign in</body></html>")
    assert "web page (HTML)" in said(path)


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
    assert "written by torch.save" in said(tmp_path / "b.safetensors")
