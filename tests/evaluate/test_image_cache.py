from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.evaluate.pictures import class_folders, picture
from tests.preprocessing import IMAGENET
from tofu_export.errors import OptionError
from tofu_export.evaluate import image_cache
from tofu_export.evaluate.image_cache import cached
from tofu_export.evaluate.images import demo_source, folder_source

PREPARED = IMAGENET.with_size((3, 20, 20))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "photos", {"a": 2, "b": 3})


def test_images_are_the_same_and_are_decoded_once(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_cache, "_BATCH", 2)  # the last batch is smaller
    source = folder_source(photos, PREPARED, num_classes=2)
    first = cached(source, tmp_path / "cache")
    assert np.array_equal(first.all_pixels(), source.all_pixels())
    assert (first.names, first.labels is source.labels) == (source.names, True)
    for file in source.files:
        stat = file.stat()
        file.write_bytes(b"\0" * stat.st_size)  # it is not read again
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    again = cached(source, tmp_path / "cache")
    assert np.array_equal(again.chosen([4, 1]).all_pixels(), first.all_pixels()[[4, 1]])
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize("change", ["file", "preparation", "limit"])
def test_other_images_are_another_file(change: str, photos: Path, tmp_path: Path) -> None:
    source = folder_source(photos, PREPARED, num_classes=2)
    cached(source, tmp_path / "cache")
    if change == "file":
        picture(source.files[0], seed=9)
    if change == "preparation":
        source = folder_source(photos, replace(PREPARED, crop_pct=1.0), num_classes=2)
    if change == "limit":
        source = source.limited(3)
    again = cached(source, tmp_path / "cache")
    assert np.array_equal(again.all_pixels(), source.all_pixels())
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_damaged_image_leaves_nothing_behind(photos: Path, tmp_path: Path) -> None:
    source = folder_source(photos, PREPARED, num_classes=2)
    source.files[-1].write_bytes(b"none")
    with pytest.raises(OptionError, match="cannot be read"):
        cached(source, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_images_in_memory_stay_there(tmp_path: Path) -> None:
    source = demo_source()
    assert cached(source, tmp_path) is source
    assert list(tmp_path.iterdir()) == []
