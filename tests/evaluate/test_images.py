"""Images with and without classes, read batch by batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from timm.data import create_dataset, create_transform

from tests.evaluate.pictures import class_folders, picture
from tests.preprocessing import IMAGENET
from tofu_export.artifact.preprocessing import Preprocessing
from tofu_export.errors import OptionError
from tofu_export.evaluate.classes import ClassOrder
from tofu_export.evaluate.images import ImageSource, demo_source, folder_source, generated_source

PREPARED = IMAGENET.with_size((3, 32, 32))


def source(path: Path, num_classes: int | None = 3, **options: Any) -> ImageSource:
    return folder_source(path, PREPARED, num_classes=num_classes, **options)


def timms(root: Path) -> dict[str, int]:
    """The class that timm gives each file of a folder."""
    samples = create_dataset("", str(root)).reader.samples
    return {Path(name).relative_to(root).as_posix(): label for name, label in samples}


def test_pixels_and_classes_are_timms(tmp_path: Path) -> None:
    root = class_folders(tmp_path, {"b": 2, "a": 3, "c": 1})
    transform = create_transform(**PREPARED.as_dict())
    expected = {}
    for name, label in timms(root).items():
        with Image.open(root / name) as image:
            expected[name] = (np.asarray(transform(image.convert("RGB"))), label)
    found = source(root)
    batches = list(found.batches(4))
    assert [len(batch.pixels) for batch in batches] == [4, 2]
    for batch in batches:
        assert batch.labels is not None
        for pixels, label, name in zip(batch.pixels, batch.labels, batch.names, strict=True):
            assert label == expected[name][1]
            assert np.abs(pixels - expected[name][0]).max() < 1e-5


def test_natural_order_is_timms(tmp_path: Path) -> None:
    root = class_folders(tmp_path, {"c10": 1, "c2": 2, "c1": 1})
    expected = timms(root)
    found = source(root, order=ClassOrder.NATURAL)
    assert found.labels is not None
    assert dict(zip(found.names, found.labels.tolist(), strict=True)) == expected
    with pytest.raises(OptionError, match="--class-order"):
        source(root)


def test_the_layout_of_imagenet(tmp_path: Path) -> None:
    class_folders(tmp_path / "val", {"n01440764": 1, "n02102040": 2})
    class_folders(tmp_path / "train", {"n01440764": 5})
    found = source(tmp_path, 1000)
    assert found.labels is not None
    assert found.labels.tolist() == [0, 217, 217]
    assert found.notes == ("2 of the model's 1000 classes have images",)
    assert found.source == str(tmp_path / "val")


def test_images_without_classes(tmp_path: Path) -> None:
    for name in ("z.png", "y.png"):
        picture(tmp_path / name)
    found = source(tmp_path, 1000)
    assert found.labels is None
    assert found.names == ("y.png", "z.png")
    assert next(iter(found.batches(8))).labels is None


def test_folders_that_are_no_classes(tmp_path: Path) -> None:
    class_folders(tmp_path, {"monday": 1, "tuesday": 1})
    assert len(source(tmp_path, None)) == 2
    with pytest.raises(OptionError, match="2 class folders"):
        source(tmp_path, 3)


def test_what_cannot_be_judged_on(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no such folder"):
        source(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(OptionError, match="no image in it"):
        source(tmp_path / "empty")
    for name in "abc":
        (tmp_path / "hollow" / name).mkdir(parents=True)
    picture(tmp_path / "hollow" / "a" / "1.png")
    with pytest.raises(OptionError, match=r"class folder .*hollow/b has no image in it"):
        source(tmp_path / "hollow")
    class_folders(tmp_path / "whole", {"train": 1, "test": 1})
    with pytest.raises(OptionError, match="'test' is no class"):
        source(tmp_path / "whole", 2)


def test_a_class_map_may_leave_folders_out(tmp_path: Path) -> None:
    class_folders(tmp_path, {"cat": 1, "dog": 0, "eel": 2})
    class_map = {"cat": 2, "dog": 1, "eel": 0, "fox": 3}
    found = source(tmp_path, 4, class_map=class_map)
    assert found.labels is not None
    assert found.labels.tolist() == [2, 0, 0]
    assert found.notes == ("2 of the model's 4 classes have images",)


def test_loose_images_are_told(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 1, "b": 1, "c": 1})
    picture(tmp_path / "loose.png")
    by_order = "a is class 0 and c class 2, by the order of the folders' names"
    assert source(tmp_path).notes == (by_order, "1 images in no class folder are left out")


def test_folders_that_are_numbered_as_their_classes_need_no_note(tmp_path: Path) -> None:
    assert source(class_folders(tmp_path, {"00": 1, "01": 1, "02": 1})).notes == ()


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 1, "b": 1, "c": 1})
    (tmp_path / "b" / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(OptionError, match=r"b/broken\.jpg cannot be read"):
        list(source(tmp_path).batches(2))


def test_a_limit_keeps_every_class(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 4, "b": 4, "c": 4})
    found = source(tmp_path).limited(6)
    assert found.labels is not None
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.limited(100) is found
    with pytest.raises(OptionError, match="limit is 0"):
        found.limited(0)


def test_the_demo_models_own() -> None:
    found = demo_source().limited(100)
    assert found.labels is not None
    assert len(set(found.labels.tolist())) == 10
    assert found.all_pixels().shape == (100, 1, 28, 28)


def test_grey_models_read_colour(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "red.png")
    grey = replace(Preprocessing.uniform((1, 8, 8), 0, 1), crop_pct=1.0)
    pixels = folder_source(tmp_path, grey, num_classes=10).all_pixels()
    assert pixels.shape == (1, 1, 8, 8)
    assert pixels[0, 0, 4, 4] == pytest.approx(76 / 255)


def test_generated_images_say_so() -> None:
    found = generated_source(5, PREPARED, seed=3)
    assert (len(found), found.real, found.labels, found.source) == (5, False, None, "natural-statistics noise, seed 3")
    assert found.limited(2).real is False
    assert np.array_equal(generated_source(3, PREPARED, seed=3).all_pixels(), found.chosen(range(3)).all_pixels())
    with pytest.raises(OptionError, match="at least 1"):
        generated_source(0, PREPARED, seed=0)


def test_class_names_of_the_file_decide(tmp_path: Path) -> None:
    root = class_folders(tmp_path, {"two": 1, "one": 1, "zero": 2})
    found = source(root, class_names=("zero", "one", "two"))
    assert found.labels is not None
    by_name = dict(zip(found.names, found.labels.tolist(), strict=True))
    assert by_name == {"zero/0.png": 0, "zero/1.png": 0, "one/0.png": 1, "two/0.png": 2}
    with pytest.raises(OptionError, match="the folders two are none of them or two"):
        source(root, class_names=("zero", "one", "dos"))
    with pytest.raises(OptionError, match="the folders zero are none of them or two"):
        source(root, num_classes=4, class_names=("zero", "one", "two", "zero"))


def test_unreadable_images_are_skipped_when_asked_and_all_named(tmp_path: Path) -> None:
    root = class_folders(tmp_path, {"a": 3, "b": 2})
    for name in ("a/1.png", "b/0.png"):
        (root / name).write_bytes(b"\x89PNG nothing")
    with pytest.raises(OptionError, match=r"a/1\.png.*b/0\.png.*--skip-unreadable"):
        list(source(root, num_classes=2).batches(8))
    found = source(root, num_classes=2, skip_unreadable=True)
    batches = list(found.batches(2))
    assert [batch.names for batch in batches] == [("a/0.png",), ("a/2.png",), ("b/1.png",)]
    assert [batch.labels.tolist() for batch in batches if batch.labels is not None] == [[0], [0], [1]]
    assert [name in reason for name, reason in zip(("a/1.png", "b/0.png"), found.unreadable, strict=True)] == [True] * 2


def test_files_that_are_no_images_are_counted_and_links_followed(tmp_path: Path) -> None:
    class_folders(tmp_path / "elsewhere", {"a": 2, "b": 1})
    root = tmp_path / "root"
    root.mkdir()
    for name in ("a", "b"):
        (root / name).symlink_to(tmp_path / "elsewhere" / name)
    (root / "readme.txt").write_text("x")
    (root / ".hidden").mkdir()
    found = source(root, num_classes=2)
    assert len(found) == 3
    assert found.notes[0] == "1 file is no image and passed over (readme.txt)"


def test_ground_truth_of_a_flat_folder(tmp_path: Path) -> None:
    for index in range(3):
        picture(tmp_path / "images" / f"{index}.png", seed=index)
    (tmp_path / "truth.csv").write_text("2,1\n0,0\n1,2\n")
    found = source(tmp_path / "images", ground_truth=tmp_path / "truth.csv")
    assert found.labels is not None
    assert found.labels.tolist() == [0, 2, 1]
