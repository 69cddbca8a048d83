"""What image processors of `transformers` say, in timm's words: written by that library, and compared with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image

from tofu_export.artifact.preprocessing import Preprocessing
from tofu_export.errors import WeightsError
from tofu_export.images.inputs import read_images
from tofu_export.zoo._processor import read_processor
from tofu_export.zoo.preprocessing import PreprocessingOptions

EDGES = (300, 200)
"""Width and height of the test image."""


def read(folder: Path, values: dict[str, Any]) -> PreprocessingOptions:
    (folder / "preprocessor_config.json").write_text(json.dumps(values))
    found = read_processor(folder)
    assert found is not None
    return found[0]


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
        ({"do_resize": False, "size": 224}, PreprocessingOptions(crop_pct=1.0, crop_mode="center")),
        ({"image_mean": [0.1] * 3, "image_std": [0.2] * 3}, PreprocessingOptions((0.1,) * 3, (0.2,) * 3)),
        ({"image_mean": [0.1] * 3, "do_normalize": False}, PreprocessingOptions((0.0,) * 3, (1.0,) * 3)),
    ],
)  # fmt: skip
def test_a_processor_in_timms_words(tmp_path: Path, values: dict[str, Any], expected: PreprocessingOptions) -> None:
    assert read(tmp_path, values) == expected


@pytest.mark.parametrize(
    "processor",
    [
        transformers.ViTImageProcessor(size={"height": 64, "width": 64}, image_mean=[0.2, 0.3, 0.4], resample=3),
        transformers.CLIPImageProcessor(size={"shortest_edge": 80}, crop_size={"height": 64, "width": 64}),
        transformers.BitImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}),
        transformers.DeiTImageProcessor(size={"height": 72, "width": 72}, crop_size={"height": 64, "width": 64}),
        transformers.ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=0.875),
        transformers.ConvNextImageProcessor(size={"shortest_edge": 384}),
    ],
    ids=["ViT", "CLIP", "Bit", "DeiT", "ConvNext", "ConvNext without a crop"],
)
def test_images_are_those_of_the_library(tmp_path: Path, processor: Any) -> None:
    rows, columns = np.mgrid[0 : EDGES[1], 0 : EDGES[0]]
    colours = np.stack([columns % 256, rows % 256, (rows + columns) // 2], -1)
    Image.fromarray(colours.astype(np.uint8)).save(tmp_path / "a.png")
    processor.save_pretrained(tmp_path)
    expected = processor(Image.open(tmp_path / "a.png"), return_tensors="np")["pixel_values"]
    found = read_processor(tmp_path)
    assert found is not None
    whole = found[0].onto(Preprocessing.uniform(expected.shape[1:]))
    assert np.abs(read_images([tmp_path / "a.png"], whole) - expected).mean() < 0.01


@pytest.mark.parametrize(
    "values",
    [
        {"rescale_factor": 0.00784}, {"do_rescale": False}, {"image_std": [0, 0, 0]},
        {"do_flip_channel_order": True}, {"image_processor_type": "LevitImageProcessor"},
        {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 192}},
        {"size": {"height": 256, "width": 256}, "crop_size": {"height": 224, "width": 192}},
        {"size": {"longest_edge": 224}}, {"do_resize": False, "crop_size": 224}, {"image_mean": [124, 116, 104]},
    ],
)  # fmt: skip
def test_what_timms_transform_does_not_do_is_refused(tmp_path: Path, values: dict[str, Any]) -> None:
    with pytest.raises(WeightsError, match=r"preprocessor_config\.json: .*--mean"):
        read(tmp_path, values)


def test_no_processor(tmp_path: Path) -> None:
    assert read_processor(tmp_path) is None


def test_a_processor_inside_that_of_text_and_images_comes_first(tmp_path: Path) -> None:
    read(tmp_path, {"image_mean": [0.1] * 3})
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "CLIPProcessor"}))
    assert read_processor(tmp_path) == (PreprocessingOptions((0.1,) * 3), "preprocessor_config.json")
    nested = {"image_processor": {"image_processor_type": "CLIPImageProcessorFast", "image_mean": [0.3] * 3}}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    (found, file) = read_processor(tmp_path) or (None, "")
    assert (found and found.mean, file) == ((0.3,) * 3, "processor_config.json")


def test_half_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.1,')
    with pytest.raises(WeightsError, match=r"preprocessor_config\.json is not JSON .* copy it again"):
        read_processor(tmp_path)


@pytest.mark.parametrize(
    "kind", ["Beit", "Bit", "CLIP", "ChineseCLIP", "ConvNext", "DINOv3ViT", "DeiT", "Flava", "Siglip", "ViT"]
)
def test_what_is_left_out_is_the_librarys_default(tmp_path: Path, kind: str) -> None:
    name = f"{kind}ImageProcessor"
    if not hasattr(transformers, name):
        name += "Fast"
    whole = json.loads(getattr(transformers, name)().to_json_string())
    assert read(tmp_path, {"image_processor_type": name}) == read(tmp_path, whole)


@pytest.mark.parametrize("wrong", [{"resample": 9}, {"image_mean": "0.5"}])
def test_what_is_no_value_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(WeightsError, match=next(iter(wrong))):
        read(tmp_path, {"image_processor_type": "ViTImageProcessor", **wrong})
