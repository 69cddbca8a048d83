"""How images are prepared: what options say over the weights and timm."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tofu_export.artifact.preprocessing import Preprocessing
from tofu_export.errors import OptionError
from tofu_export.zoo.create import create_model
from tofu_export.zoo.preprocessing import PreprocessingOptions, for_channels
from tofu_export.zoo.weights import WeightsSource


def test_options_win_and_are_recorded() -> None:
    asked = PreprocessingOptions(mean=(0.25,), crop_pct=0.75)
    loaded = create_model("test_vit", weights=WeightsSource.parse("random"), preprocessing=asked)
    assert (loaded.preprocessing.mean, loaded.preprocessing.crop_pct) == ((0.25,) * 3, 0.75)
    assert {name for name, where in loaded.preprocessing_from.items() if where == "options"} == {"mean", "crop_pct"}


@pytest.mark.parametrize(
    "values",
    [
        {"std": (0.0,)}, {"interpolation": "sharp"}, {"crop_pct": 0.0}, {"mean": (123.7, 116.3, 103.5)},
        {"std": (58.4, 57.1, 57.4)},
    ],
)  # fmt: skip
def test_values_that_cannot_be(values: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        PreprocessingOptions(**values)


def test_other_channels() -> None:
    assert for_channels((0.2, 0.4, 0.6), 1) == (0.4,)
    assert for_channels((0.5,), 4) == (0.5,) * 4


@pytest.mark.parametrize(("values", "channels"), [((0.1, 0.2), 3), ((0.1, 0.2, 0.3), 4), ((0.1, 0.2), 1)])
def test_a_mean_of_other_channels_is_refused(values: tuple[float, ...], channels: int) -> None:
    whole = Preprocessing.uniform((channels, 32, 32))
    with pytest.raises(OptionError, match=f"mean has {len(values)} values, the model has {channels} input channels"):
        PreprocessingOptions(mean=values).onto(whole)


def test_rows_are_numbers_lists_or_arrays() -> None:
    found = PreprocessingOptions.of({"mean": torch.tensor([0.25, 0.5, 0.75]), "std": 0.2})
    assert found == PreprocessingOptions(mean=(0.25, 0.5, 0.75), std=(0.2,))
