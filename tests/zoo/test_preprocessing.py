"""How images are prepared: what a processor of transformers says in timm's words, and what options say over it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tofu_export.errors import OptionError, WeightsError
from tofu_export.zoo.create import create_model
from tofu_export.zoo.preprocessing import PreprocessingOptions, for_channels, read_processor
from tofu_export.zoo.weights import WeightsSource


def read(folder: Path, values: dict[str, Any]) -> PreprocessingOptions | None:
    (folder / "preprocessor_config.json").write_text(json.dumps(values))
    return read_processor(folder)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"size": {"height": 224, "width": 224}, "resample": 3},
         PreprocessingOptions(None, None, "bicubic", 1.0, "squash")),
        ({"size": {"shortest_edge": 256}, "crop_size": 224, "do_center_crop": True},
         PreprocessingOptions(crop_pct=0.875, crop_mode="center")),
        ({"size": 256, "crop_size": {"height": 224, "width": 224}},
         PreprocessingOptions(crop_pct=0.875, crop_mode="center")),
        ({"size": {"height": 256, "width": 256}, "crop_size": {"height": 224, "width": 224}},
         PreprocessingOptions(crop_pct=0.875, crop_mode="squash")),
        ({"size": 224, "do_center_crop": False}, PreprocessingOptions(crop_pct=1.0, crop_mode="squash")),
        ({"do_resize": False, "size": 224}, PreprocessingOptions()),
        ({"image_mean": [0.1] * 3, "image_std": [0.2] * 3}, PreprocessingOptions((0.1,) * 3, (0.2,) * 3)),
        ({"image_mean": [0.1] * 3, "do_normalize": False}, PreprocessingOptions((0.0,) * 3, (1.0,) * 3)),
    ],
)  # fmt: skip
def test_a_processor_in_timms_words(tmp_path: Path, values: dict[str, Any], expected: PreprocessingOptions) -> None:
    assert read(tmp_path, values) == expected


@pytest.mark.parametrize("values", [{"rescale_factor": 0.00784}, {"do_rescale": False}, {"image_std": [0, 0, 0]}])
def test_what_timms_transform_does_not_do_is_refused(tmp_path: Path, values: dict[str, Any]) -> None:
    with pytest.raises(WeightsError, match=r"preprocessor_config\.json: .*--mean"):
        read(tmp_path, values)


def test_no_processor(tmp_path: Path) -> None:
    assert read_processor(tmp_path) is None


def test_options_win_and_are_recorded() -> None:
    asked = PreprocessingOptions(mean=(0.25,), crop_pct=0.75)
    loaded = create_model("test_vit", weights=WeightsSource.parse("random"), preprocessing=asked)
    assert (loaded.preprocessing.mean, loaded.preprocessing.crop_pct) == ((0.25,) * 3, 0.75)
    assert {name for name, where in loaded.preprocessing_from.items() if where == "options"} == {"mean", "crop_pct"}


@pytest.mark.parametrize("values", [{"std": (0.0,)}, {"interpolation": "sharp"}, {"crop_pct": 0.0}])
def test_values_that_cannot_be(values: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        PreprocessingOptions(**values)


def test_other_channels() -> None:
    assert for_channels((0.2, 0.4, 0.6), 1) == (0.4,)
    assert for_channels((0.5,), 4) == (0.5,) * 4
