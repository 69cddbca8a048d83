"""Which files of a folder are images."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.evaluate.pictures import picture
from tofu_export.errors import OptionError
from tofu_export.images.files import find_images, passed_over_words


def test_images_by_suffix_and_by_content(tmp_path: Path) -> None:
    names = ["a.png", "b.JFIF", "c", "d.image"]
    for name in names:
        picture(tmp_path / "picture.png").rename(tmp_path / name)
    (tmp_path / "labels.txt").write_text("zebra")
    found = find_images(tmp_path)
    assert [file.name for file in found.images] == names
    assert [file.name for file in found.passed_over] == ["labels.txt"]
    assert passed_over_words(found.passed_over) == "1 file is no image and passed over (labels.txt)"


def test_hidden_files_and_folders_are_neither(tmp_path: Path) -> None:
    picture(tmp_path / ".ipynb_checkpoints" / "a.png")
    picture(tmp_path / ".b.png")
    assert find_images(tmp_path).images == ()


def test_links_are_followed_once(tmp_path: Path) -> None:
    picture(tmp_path / "elsewhere" / "a.png")
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (root / "again").symlink_to(root)
    assert [file.relative_to(root).as_posix() for file in find_images(root).images] == ["link/a.png"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "a" / "a.png")
    picture(tmp_path / "b" / "b.png")
    scan = os.scandir

    def guarded(path: str) -> object:
        if Path(path).name == "b":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(OptionError, match=r"/b: the folder cannot be read \(Permission denied\)"):
        find_images(tmp_path)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no such folder"):
        find_images(tmp_path / "none")
