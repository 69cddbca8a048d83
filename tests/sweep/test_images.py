from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tofu_export.errors import OptionError
from tofu_export.sweep.images import GENERATED_IMAGES, images_for

PREPROCESSING = {"mean": (0.5,), "std": (0.5,), "interpolation": "nearest", "crop_pct": 1.0, "crop_mode": "center"}
SHAPE = (1, 4, 4)


def folder_of(path: Path, names: dict[str, int]) -> Path:
    for name, grey in names.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), grey).save(path / name)
    return path


def of(folder: Path | None, classes: int, limit: int | None = None, model: str = "vit_tiny") -> object:
    return images_for(model, SHAPE, classes, PREPROCESSING, folder=folder, limit=limit, seed=0)


def test_folders_are_classes_in_the_order_of_timm(tmp_path: Path) -> None:
    # As text c10 would come before c2.
    folder = folder_of(tmp_path, {"c10/a.png": 30, "c2/a.png": 20, "c2/b.png": 21, "c1/x/a.png": 10})
    images = images_for("vit_tiny", SHAPE, 3, PREPROCESSING, folder=folder, limit=None, seed=0)
    assert images.labels is not None
    seen = np.concatenate(list(images.batches(3)))
    greys = np.rint((seen[:, 0, 0, 0] * 0.5 + 0.5) * 255).astype(int)
    assert dict(zip(greys.tolist(), images.labels.tolist(), strict=True)) == {10: 0, 20: 1, 21: 1, 30: 2}


@pytest.mark.parametrize("classes", [0, 1, 3])
def test_other_folders_are_no_labels(classes: int, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"a/1.png": 1, "b/1.png": 2})
    images = images_for("vit_tiny", SHAPE, classes, PREPROCESSING, folder=folder, limit=None, seed=0)
    assert images.labels is None
    assert len(images) == 2


def test_a_file_beside_the_folders_is_no_class(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"a/1.png": 1, "b/1.png": 2, "c.png": 3})
    assert images_for("vit_tiny", SHAPE, 2, PREPROCESSING, folder=folder, limit=None, seed=0).labels is None


def test_a_limit_takes_from_every_class(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {f"{name}/{index}.png": index for name in "abc" for index in range(10)})
    images = images_for("vit_tiny", SHAPE, 3, PREPROCESSING, folder=folder, limit=6, seed=0)
    assert images.labels is not None
    assert sorted(images.labels.tolist()) == [0, 0, 1, 1, 2, 2]
    assert len(images) == 6


def test_the_demo_model_brings_labelled_images() -> None:
    images = images_for("demo_vit", (1, 28, 28), 10, {}, folder=None, limit=5, seed=0)
    assert images.labels is not None
    assert (len(images), len(images.labels), images.real) == (5, 5, True)


def test_other_models_get_generated_ones() -> None:
    images = images_for("vit_tiny", SHAPE, 10, PREPROCESSING, folder=None, limit=None, seed=3)
    assert (len(images), images.real, images.labels) == (GENERATED_IMAGES, False, None)
    again = images_for("vit_tiny", SHAPE, 10, PREPROCESSING, folder=None, limit=None, seed=3)
    assert np.array_equal(images.first(4), again.first(4))
    assert sum(len(batch) for batch in images.batches(7)) == GENERATED_IMAGES


def test_what_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="limit is 0"):
        of(None, 3, limit=0)
    with pytest.raises(OptionError, match="no image in it"):
        of(tmp_path, 3)
    with pytest.raises(OptionError, match="no such folder"):
        of(tmp_path / "gone", 3)
