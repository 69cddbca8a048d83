"""Classes of a flat folder from a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tofu_export.errors import OptionError
from tofu_export.evaluate.ground_truth import read_ground_truth

IMAGES = ("val_1.JPEG", "val_2.JPEG")
SYNSETS = {"n01440764": 0, "n03995372": 717}


def labels(folder: Path, text: str, num_classes: int = 1000) -> list[int]:
    (folder / "truth.txt").write_text(text, encoding="utf-8")
    return read_ground_truth(folder / "truth.txt", IMAGES, num_classes, SYNSETS)


@pytest.mark.parametrize(
    "text",
    [
        "val_2.JPEG 717\nval_1.JPEG 0\n",
        "val_1.JPEG\tn01440764\nval_2.JPEG\tn03995372\nval_3.JPEG\tn03995372",
        '\ufeff"file";"label"\n"val_1.JPEG";"0"\n"val_2.JPEG";717\n',
        "ImageId,PredictionString\nval_2,n03995372 85 1 499 272\nval_1,n01440764 1 2 3 4\n",
    ],
)
def test_numbers_and_names(tmp_path: Path, text: str) -> None:
    assert labels(tmp_path, text) == [0, 717]


def test_numbers_alone_do_not_say_which_image(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="does not say which image is which"):
        labels(tmp_path, "490\n361\n")


def test_an_image_without_a_line(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"no class for 1 of 2 images \(val_2\.JPEG\)"):
        labels(tmp_path, "val_1.JPEG 3\n")


def test_classes_that_begin_at_one(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="its numbers begin at 1"):
        labels(tmp_path, "val_1.JPEG 1\nval_2.JPEG 4\n", num_classes=4)


def test_classes_that_begin_at_one_in_lines_of_other_images(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="its numbers begin at 1"):
        labels(tmp_path, "val_1.JPEG 1\nval_2.JPEG 2\nval_3.JPEG 4\n", num_classes=4)


def test_a_class_of_several_words_is_not_cut(tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_text("a b.png,tabby cat\n")
    known = {"tabby": 0, "tabby cat": 1}
    assert read_ground_truth(tmp_path / "truth.csv", ["a b.png"], 2, known) == [1]
    with pytest.raises(OptionError, match="no class for 1 of 1"):
        read_ground_truth(tmp_path / "truth.csv", ["a b.png"], 2, {"tabby": 0})


def test_lines_that_contradict_each_other(tmp_path: Path) -> None:
    assert labels(tmp_path, "val_1.JPEG 3\nval_1.JPEG 3\nval_2.JPEG 4") == [3, 4]
    with pytest.raises(OptionError, match=r"two classes for val_1\.JPEG: 3 and 5"):
        labels(tmp_path, "val_1.JPEG 3\nval_1.JPEG 5\nval_2.JPEG 4")


def test_a_name_that_two_images_have(tmp_path: Path) -> None:
    (tmp_path / "truth.txt").write_text("1.png 3\n")
    with pytest.raises(OptionError, match=r"a line for 1\.png, which a/1\.png and b/1\.png are"):
        read_ground_truth(tmp_path / "truth.txt", ["a/1.png", "b/1.png"], 10, None)
    (tmp_path / "truth.txt").write_text("a/1.png 3\n1.png 4\n")
    assert read_ground_truth(tmp_path / "truth.txt", ["a/1.png", "b/1.png"], 10, None) == [3, 4]
