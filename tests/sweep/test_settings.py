from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.evaluate.pictures import class_folders, picture
from tofu_export.errors import OptionError
from tofu_export.evaluate.classes import ClassOrder
from tofu_export.options import Target
from tofu_export.sweep.settings import Settings
from tofu_export.zoo.weights import WeightsSource


def test_whatever_changes_decisions_is_noticed(tmp_path: Path) -> None:
    weights = tmp_path / "w.pth"
    weights.write_bytes(b"one")
    images = class_folders(tmp_path / "images", {"a": 1, "b": 1})
    settings = Settings(weights=WeightsSource.parse(str(weights)), images=images)
    seen = [settings.evaluation()]
    assert seen[0] == settings.evaluation()
    json.dumps(seen[0])
    others = (
        replace(settings, target=Target.ONNXRUNTIME),
        replace(settings, limit=1),
        replace(settings, seed=1),
        replace(settings, verify=False),
        replace(settings, labelled=False),
        replace(settings, class_order=ClassOrder.TEXT),
        replace(settings, image_size=(32, 32)),
    )
    seen += [other.evaluation() for other in others]
    weights.write_bytes(b"two")
    seen.append(settings.evaluation())
    picture(images / "a" / "more.png")
    seen.append(settings.evaluation())
    texts = {json.dumps(one) for one in seen}
    assert len(texts) == len(seen)


def test_times_depend_on_the_machine_and_not_on_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = class_folders(tmp_path, {"a": 1})
    here = Settings(images=images).timing()
    assert here == Settings(images=images, limit=1, labelled=False, verify=False).timing()
    assert here != Settings(seconds=1).timing()
    assert here != Settings(threads=1).timing()
    monkeypatch.setattr("tofu_export.sweep.settings.environment.cpu_name", lambda: "another CPU")
    assert here != Settings(images=images).timing()


def test_where_the_files_of_a_folder_lie_does_not_count(tmp_path: Path) -> None:
    here, there = (class_folders(tmp_path / name, {"a": 2}) for name in "xy")
    assert Settings(images=here).evaluation() == Settings(images=there).evaluation()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"limit": 0}, "limit is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"seconds": float("inf")}, "seconds is inf"),
        ({"class_order": ClassOrder.TEXT}, "--images"),
    ],
)
def test_what_cannot_be_used(values: dict[str, object], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        Settings(**values)  # type: ignore[arg-type]


def test_a_folder_without_images_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no image in it"):
        Settings(images=tmp_path).evaluation()
