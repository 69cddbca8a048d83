"""Which class a folder stands for."""

from __future__ import annotations

from pathlib import Path

import pytest
from timm.data import ImageNetInfo
from timm.utils.misc import natural_key

from tofu_export.errors import OptionError
from tofu_export.evaluate.classes import ClassOrder, class_indices, read_class_map

NAMES = ["c10", "c2", "B1", "a3", "c2b", "10", "9"]


def test_natural_order_is_timms() -> None:
    assert ClassOrder.NATURAL.sort(NAMES) == sorted(NAMES, key=natural_key)
    assert ClassOrder.TEXT.sort(NAMES) == sorted(NAMES) != ClassOrder.NATURAL.sort(NAMES)


def test_an_order_that_matters_is_not_guessed() -> None:
    names = ["c1", "c2", "c10"]
    with pytest.raises(OptionError) as caught:
        class_indices(names, 3, class_map=None, order=None)
    assert "class 1 is 'c10' if folders are sorted by text" in str(caught.value)
    assert "'c2' in natural order" in str(caught.value)
    assert class_indices(names, 3, class_map=None, order=ClassOrder.TEXT) == {"c1": 0, "c10": 1, "c2": 2}
    assert class_indices(names, 3, class_map=None, order=ClassOrder.NATURAL) == {"c1": 0, "c2": 1, "c10": 2}


def test_an_order_that_does_not_matter() -> None:
    assert class_indices(["b", "a", "c"], 3, class_map=None, order=None) == {"a": 0, "b": 1, "c": 2}


def test_another_number_of_folders_is_refused() -> None:
    with pytest.raises(OptionError, match=r"2 class folders \(a, b\), but the model has 3 classes"):
        class_indices(["b", "a"], 3, class_map=None, order=None)


def test_synsets_are_known_by_name() -> None:
    synsets = ImageNetInfo("imagenet-1k").label_names()  # type: ignore[no-untyped-call]
    chosen = [synsets[217], synsets[0], synsets[999]]
    assert class_indices(chosen, 1000, class_map=None, order=None) == dict(zip(chosen, (217, 0, 999), strict=True))
    with pytest.raises(OptionError, match="3 class folders"):
        class_indices([*chosen[:2], "n99999999"], 1000, class_map=None, order=None)


def test_folders_with_the_names_of_the_classes() -> None:
    names = ("Tabby cat", "dog", "siamese cat")
    folders = ["tabby_cat", "Dog", "siamese-cat"]
    found = class_indices(folders, 3, class_map=None, order=None, class_names=names)
    assert found == {"tabby_cat": 0, "Dog": 1, "siamese-cat": 2}
    with pytest.raises(OptionError, match="the folders ape are none of them"):
        class_indices(["dog", "ape"], 3, class_map=None, order=None, class_names=names)


def test_names_that_differ_in_case_only_have_to_be_exact() -> None:
    names = ("Turkey", "turkey")
    assert class_indices(list(names), 2, class_map=None, order=None, class_names=names) == {"Turkey": 0, "turkey": 1}
    with pytest.raises(OptionError, match="the folders TURKEY are none of them or two"):
        class_indices(["TURKEY"], 2, class_map=None, order=None, class_names=names)


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("zebra\nape\n", encoding="utf-8-sig")
    assert read_class_map(tmp_path / "classes.txt") == {"zebra": 0, "ape": 1}


def test_a_class_map_settles_it(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("zebra\nape\n cat \n\n", encoding="utf-8")
    class_map = read_class_map(path)
    assert class_map == {"zebra": 0, "ape": 1, "cat": 2}
    assert class_indices(["ape"], 3, class_map=class_map, order=None) == {"ape": 1}
    with pytest.raises(OptionError, match="no class for the folders dog"):
        class_indices(["ape", "dog"], 3, class_map=class_map, order=None)
    with pytest.raises(OptionError, match="the class map has 3 classes, but the model has 4"):
        class_indices(["ape"], 4, class_map=class_map, order=None)


def test_a_class_map_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot read the class map"):
        read_class_map(tmp_path / "missing.txt")
    (tmp_path / "twice.txt").write_text("a\nb\na\n", encoding="utf-8")
    with pytest.raises(OptionError, match="has 'a' twice"):
        read_class_map(tmp_path / "twice.txt")
