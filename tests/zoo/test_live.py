"""Models that a program already holds."""

from __future__ import annotations

import timm
import torch

from tofu_export.patch.describe import describe
from tofu_export.zoo.live import load_live, name_of, on_meta
from tofu_export.zoo.preprocessing import PreprocessingOptions


def test_preprocessing_is_for_the_input_of_the_model() -> None:
    model = timm.create_model("test_vit", in_chans=1, img_size=(96, 128))
    assert model.pretrained_cfg["input_size"] == (3, 160, 160)
    spec = describe(on_meta(model), name_of(model))
    loaded = load_live(model, spec)
    assert loaded.preprocessing.input_size == (1, 96, 128)
    assert (loaded.preprocessing.mean, loaded.preprocessing.crop_pct) == ((0.5,), 0.95)
    assert set(loaded.preprocessing_from.values()) == {"the model's pretrained_cfg"}
    assert loaded.model(torch.zeros(1, *loaded.preprocessing.input_size)).shape == (1, 1000)


def test_the_caller_knows_better() -> None:
    model = timm.create_model("test_vit")
    asked = PreprocessingOptions(mean=(0.2,), crop_mode="squash")
    loaded = load_live(model, describe(on_meta(model), name_of(model)), asked)
    assert (loaded.preprocessing.mean, loaded.preprocessing.crop_mode) == ((0.2,) * 3, "squash")
    assert {name for name, by in loaded.preprocessing_from.items() if by == "the caller"} == {"mean", "crop_mode"}
