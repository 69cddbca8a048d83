"""How images are prepared for a model: one record, as metadata state it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import timm
from timm.data import resolve_model_data_config

from tests.preprocessing import IMAGENET
from tofu_export.artifact.preprocessing import ENTRIES, Preprocessing
from tofu_export.errors import OptionError


def test_entries_and_their_order_are_timms() -> None:
    config = resolve_model_data_config(timm.create_model("test_vit"))
    assert list(IMAGENET.as_dict()) == list(config)
    assert list(config) == ["input_size", *ENTRIES]
    assert Preprocessing.from_dict(config).as_dict() == config


def test_defaults_are_timms() -> None:
    config = resolve_model_data_config(timm.create_model("test_vit"), pretrained_cfg={"input_size": (3, 160, 160)})
    given = {name: config[name] for name in ("input_size", "mean", "std")}
    assert Preprocessing(**given).as_dict() == config


def test_json_and_back() -> None:
    text = json.dumps(IMAGENET.as_dict())
    assert text.startswith('{"input_size": [3, 64, 64], "interpolation": "bicubic", "mean": [0.485, 0.456, 0.406], ')
    assert Preprocessing.from_dict(json.loads(text)) == IMAGENET


def test_without_an_entry_the_default_applies() -> None:
    less = {**IMAGENET.as_dict(), "crop_pct": None, "tag": "of another version"}
    del less["interpolation"]
    assert Preprocessing.from_dict(less) == replace(IMAGENET, crop_pct=0.875)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_size": (3, 0, 64)}, r"input_size is \[3, 0, 64\], expected every size to be at least 1"),
        ({"mean": (0.5,)}, "mean is 0.5, expected 3 values, one for each channel"),
        ({"mean": ()}, "mean is empty, expected finite numbers"),
        ({"mean": (0.5, math.nan, 0.5)}, "mean is 0.5, nan, 0.5, expected finite numbers"),
        ({"std": (1.0,) * 4}, "std is 1, 1, 1, 1, expected 3 values"),
        ({"std": (1.0, 0.0, 1.0)}, "std is 1, 0, 1, expected numbers above 0"),
        ({"std": (1.0, math.inf, 1.0)}, "std is 1, inf, 1, expected numbers above 0"),
        ({"interpolation": "random"}, "interpolation is 'random', expected one of nearest, lanczos, bilinear, bicubic"),
        ({"crop_pct": 0.0}, "crop_pct is 0, expected a share of the image"),
        ({"crop_pct": math.nan}, "crop_pct is nan, expected a share of the image"),
        ({"crop_mode": "middle"}, "crop_mode is 'middle', expected one of center, squash, border"),
    ],
)
def test_what_no_image_can_be_prepared_with(change: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        replace(IMAGENET, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": None}, "preprocessing.mean is missing"),
        ({"mean": "grey"}, "preprocessing.mean is 'grey', expected a list"),
        ({"std": [1, "2", 3]}, r"preprocessing.std\[1\] is '2', expected a number"),
        ({"input_size": [3]}, r"preprocessing.input_size is \[3\], expected a list of 3"),
        ({"interpolation": 3}, "preprocessing.interpolation is 3, expected text"),
    ],
)
def test_what_is_no_preprocessing(change: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Preprocessing.from_dict({**IMAGENET.as_dict(), **change})


def test_no_mapping_is_no_preprocessing() -> None:
    with pytest.raises(OptionError, match="preprocessing is 5, expected an object"):
        Preprocessing.from_dict(5)


def test_other_sizes() -> None:
    wide = IMAGENET.with_size((3, 32, 48))
    assert (wide.channels, wide.image_size) == (3, (32, 48))
    assert wide.with_size(IMAGENET.input_size) == IMAGENET
    assert IMAGENET.with_size((None, 32, None)).input_size == (3, 32, 64)
    with pytest.raises(OptionError, match="expected 1 values, one for each channel"):
        IMAGENET.with_size((1, 64, 64))


def test_the_same_for_all_channels() -> None:
    found = Preprocessing.uniform((4, 8, 8), std=0.25)
    assert (found.mean, found.std, found.crop_mode) == ((0.5,) * 4, (0.25,) * 4, "center")


def test_differences_are_no_rounding() -> None:
    near = replace(IMAGENET, mean=tuple(value * (1 + 1e-8) for value in IMAGENET.mean), input_size=(3, 8, 8))
    assert IMAGENET.differences(near) == {}
    other = replace(IMAGENET, crop_pct=1.0, std=(0.229, 0.224, 0.226))
    assert IMAGENET.differences(other) == {"std": (IMAGENET.std, (0.229, 0.224, 0.226)), "crop_pct": (0.9, 1.0)}
    grey = Preprocessing.uniform((1, 8, 8), mean=0.485, std=0.229)
    assert set(IMAGENET.differences(grey)) == {"mean", "std", "crop_pct"}
