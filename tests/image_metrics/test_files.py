"""Which images are compared with which."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.image_metrics.stand_ins import pixels, save_image, save_images
from tofu_export.errors import OptionError
from tofu_export.image_metrics.files import Pair, batches_of, find_images, read_rgb


def test_two_images_are_one_pair(tmp_path: Path) -> None:
    a, b = (save_image(tmp_path / name, pixels(0)) for name in ("full.png", "tofu.png"))
    found = find_images(a, b)
    assert (found.a, found.b, found.pairs) == ((a,), (b,), (Pair("full", a, b),))
    assert find_images(a, b, paired=False).pairs == ()


def test_names_pair_folders_whatever_the_format(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for name in ("cat.png", "deep/dog.png"):
        save_image(a / name, pixels(0))
    for name in ("cat.jpg", "deep/dog.bmp"):
        save_image(b / name, pixels(0))
    (b / "captions.txt").write_text("a cat")
    found = find_images(a, b)
    assert [pair.name for pair in found.pairs] == ["cat", "deep/dog"]
    assert found.pairs[1].b == b / "deep/dog.bmp"


def test_folders_without_a_common_name_are_sets(tmp_path: Path) -> None:
    a = save_images(tmp_path / "a", range(2))
    b = tmp_path / "b"
    save_image(b / "other.png", pixels(0))
    assert find_images(a, b).pairs == ()
    assert (len(find_images(a, b).a), len(find_images(a, b).b)) == (2, 1)
    with pytest.raises(OptionError, match=r"00000\.png, 00001\.png in .*a have no image of that name"):
        find_images(a, b, paired=True)


def test_a_missing_partner_is_an_error(tmp_path: Path) -> None:
    a, b = save_images(tmp_path / "a", range(7)), save_images(tmp_path / "b", range(2))
    with pytest.raises(OptionError, match=r"00002\.png, 00003\.png, 00004\.png and 2 more .*--metrics fid,kid"):
        find_images(a, b)
    with pytest.raises(OptionError, match="have no image of that name"):
        find_images(b, a)
    assert find_images(a, b, paired=False).pairs == ()


@pytest.mark.parametrize("case", ["missing", "mixed", "empty", "twice"])
def test_refused(case: str, tmp_path: Path) -> None:
    a, b = save_images(tmp_path / "a", range(1)), save_images(tmp_path / "b", range(1))
    words = {"missing": "does not exist", "mixed": "compare two images, or", "empty": "no image", "twice": "several"}
    if case == "missing":
        a = tmp_path / "gone"
    elif case == "mixed":
        a = a / "00000.png"
    elif case == "empty":
        (a / "00000.png").unlink()
    else:
        save_image(a / "00000.jpg", pixels(0))
    with pytest.raises(OptionError, match=words[case]):
        find_images(a, b)


def test_grey_and_transparent_images_are_rgb(tmp_path: Path) -> None:
    values = pixels(0)
    Image.fromarray(values[..., 0]).save(tmp_path / "grey.png")
    Image.fromarray(np.dstack([values, values[..., :1]]), "RGBA").save(tmp_path / "alpha.png")
    assert np.array_equal(read_rgb(tmp_path / "grey.png"), np.stack([values[..., 0]] * 3))
    assert np.array_equal(read_rgb(tmp_path / "alpha.png"), values.transpose(2, 0, 1))


def test_batches_hold_neighbours_of_one_size(tmp_path: Path) -> None:
    save_images(tmp_path, range(5))
    save_image(tmp_path / "00003.png", pixels(0, 8, 8))
    found = list(batches_of(sorted(tmp_path.iterdir()), 2))
    assert [batch.shape for batch in found] == [(2, 3, 32, 40), (1, 3, 32, 40), (1, 3, 8, 8), (1, 3, 32, 40)]


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    file = save_image(tmp_path / "cut.png", pixels(0))
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(OptionError, match=r"cut\.png cannot be read"):
        read_rgb(file)
