"""Read how `transformers` prepares images, from the files that it writes beside a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from timm.data import constants

from tofu_export.artifact.preprocessing import INTERPOLATIONS
from tofu_export.errors import WeightsError
from tofu_export.zoo._json import read_object
from tofu_export.zoo.preprocessing import PreprocessingOptions, row_of

__all__ = ["read_processor"]

_FILE: Final = "preprocessor_config.json"
_COMPOSITE: Final = "processor_config.json"
"""File of version 5 for models with a text tower; its `image_processor` comes first, as in that library."""

_HALF: Final = {"image_mean": constants.IMAGENET_INCEPTION_MEAN, "image_std": constants.IMAGENET_INCEPTION_STD}
_IMAGENET: Final = {"image_mean": constants.IMAGENET_DEFAULT_MEAN, "image_std": constants.IMAGENET_DEFAULT_STD}
_OPENAI: Final = {"image_mean": constants.OPENAI_CLIP_MEAN, "image_std": constants.OPENAI_CLIP_STD}
_WHOLE: Final = {"size": 224, "do_center_crop": False}
_CROPPED: Final = {"size": {"shortest_edge": 224}, "crop_size": 224, "do_center_crop": True}
_BILINEAR: Final = {"resample": 2}
_BICUBIC: Final = {"resample": 3}

_KINDS: Final[Mapping[str, Mapping[str, Any]]] = {
    "Beit": {**_HALF, **_BICUBIC, **_WHOLE, "crop_size": 224},
    "Bit": {**_OPENAI, **_BICUBIC, **_CROPPED},
    "CLIP": {**_OPENAI, **_BICUBIC, **_CROPPED},
    "ChineseCLIP": {**_OPENAI, **_BICUBIC, **_CROPPED},
    "ConvNext": {**_HALF, **_BICUBIC, "size": {"shortest_edge": 384}, "crop_pct": 0.875},
    "DINOv3ViT": {**_IMAGENET, **_BILINEAR, **_WHOLE},
    "DeiT": {**_HALF, **_BICUBIC, "size": {"height": 256, "width": 256}, "crop_size": 224, "do_center_crop": True},
    "Flava": {**_OPENAI, **_BICUBIC, "size": {"height": 224, "width": 224}, "crop_size": 224, "do_center_crop": True},
    "Siglip": {**_HALF, **_BICUBIC, **_WHOLE},
    "Siglip2": {**_HALF, **_BILINEAR},
    "ViT": {**_HALF, **_BILINEAR, **_WHOLE},
}
"""Image processors that resize, crop, scale and normalise, in this order and in no other way, and what stands for
entries that their files leave out. Source: transformers 5.24."""

_KIND_NAME: Final = re.compile(r"(\w+?)(?:ImageProcessor|FeatureExtractor)(?:Fast|Pil)?")

_KNOWN_STEPS: Final = frozenset(
    {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb", "do_reduce_labels"}
)
"""Steps that are read here, or do not change the pixels of an RGB image."""

_TO_ONE: Final = 1 / 255
_DEFAULT_STD: Final = 1.0

_WITHOUT_CROP_FROM: Final = 384
"""Edge from which `ConvNextImageProcessor` resizes both sides and crops nothing."""


def read_processor(folder: Path) -> tuple[PreprocessingOptions, str] | None:
    """Read the configuration of an image processor in a folder; None without one.

    Returns:
        What it says, and the name of its file.

    Raises:
        WeightsError: the file cannot be read, or asks for something that timm's transform cannot do.
    """
    nested = (read_object(folder / _COMPOSITE) or {}).get("image_processor")
    file = _COMPOSITE if isinstance(nested, Mapping) else _FILE
    values = nested if isinstance(nested, Mapping) else read_object(folder / _FILE)
    if values is None:
        return None
    try:
        return _options(values), file
    except (TypeError, ValueError, KeyError, IndexError, ZeroDivisionError) as error:  # OptionError is a ValueError
        raise WeightsError(
            f"{folder / file}: {error}; give what it says with --mean, --std, and without this file"
        ) from error


def _options(stated: Mapping[str, Any]) -> PreprocessingOptions:
    kind = _check(stated)
    values = {**_KINDS.get(kind, {}), **{name: value for name, value in stated.items() if value is not None}}
    mean, std = (_row(values, name) for name in ("image_mean", "image_std"))
    if values.get("do_normalize") is False:
        channels = len(mean or (0.0,) * 3)
        mean, std = (0.0,) * channels, (_DEFAULT_STD,) * channels
    resample = values.get("resample")
    if resample is not None and resample not in range(len(INTERPOLATIONS)):
        raise ValueError(f"resample is {resample}, expected a number from 0 to {len(INTERPOLATIONS) - 1}")
    interpolation = None if resample is None else INTERPOLATIONS[resample]
    crop_pct, crop_mode = _crop(values)
    return PreprocessingOptions(mean, std, interpolation, crop_pct, crop_mode)


def _row(values: Mapping[str, Any], name: str) -> tuple[float, ...] | None:
    row = row_of(values.get(name))
    if row is None and name in values:
        raise ValueError(f"{name} is {values[name]!r}, expected a number for each channel")
    return row


def _check(values: Mapping[str, Any]) -> str:
    """Return the kind of a processor, empty if its file does not say.

    Raises:
        ValueError: it changes pixels in another way than timm's transform.
    """
    kind = values.get("image_processor_type") or values.get("feature_extractor_type")
    name = _KIND_NAME.fullmatch(str(kind))
    if kind is not None and (name is None or name[1] not in _KINDS):
        raise ValueError(f"{kind} prepares images in a way that is not known here")
    other = [step for step in values if step.startswith("do_") and values[step] and step not in _KNOWN_STEPS]
    if other:
        raise ValueError(f"it says {', '.join(other)}, which timm's transform does not do")
    factor = values.get("rescale_factor", _TO_ONE)
    if values.get("do_rescale") is False or abs(factor * 255 - 1) > 1e-3:
        raise ValueError(f"it scales pixels by {factor if values.get('do_rescale', True) else 1}, expected 1/255")
    return "" if name is None else name[1]


def _crop(values: Mapping[str, Any]) -> tuple[float | None, str | None]:
    """Return share and mode of the crop. A size of height and width is reached regardless of the image's ratio.

    Raises:
        ValueError: timm's transform cannot do it.
    """
    size = values.get("size")
    crop = values.get("crop_size") if values.get("do_center_crop", "crop_size" in values) else None
    if values.get("do_resize") is False:
        if crop is not None:
            raise ValueError("it crops images without resizing them")
        return 1.0, "center"  # leaves an image of the model's size as it is
    if size is None:
        return None, None
    part = None if crop is None else _sides(crop, "crop_size")
    if isinstance(size, Mapping) and size.get("shortest_edge"):
        return _of_shortest(float(size["shortest_edge"]), part, values.get("crop_pct"))
    if not isinstance(size, Mapping) and part is not None:  # a bare number: the short edge where a crop follows
        return _of_shortest(float(size), part, None)
    whole = _sides(size, "size")
    if part is None:
        return 1.0, "squash"
    if abs(part[0] / whole[0] - part[1] / whole[1]) > 1e-3:
        raise ValueError(f"it crops {part[0]}x{part[1]} of {whole[0]}x{whole[1]}, another share of each side")
    return part[0] / whole[0], "squash"


def _of_shortest(edge: float, part: tuple[int, int] | None, crop_pct: Any) -> tuple[float, str]:
    if part is None and crop_pct is not None:
        return (1.0, "squash") if edge >= _WITHOUT_CROP_FROM else (float(crop_pct), "center")
    if part is not None and part[0] != part[1]:
        raise ValueError(f"it crops {part[0]}x{part[1]} of images whose shorter edge is {edge:g}, expected a square")
    return (1.0 if part is None else part[0] / edge), "center"


def _sides(size: Any, name: str) -> tuple[int, int]:
    """Return height and width from a number for both, or a mapping."""
    if isinstance(size, Mapping):
        if not (size.get("height") and size.get("width")):
            raise ValueError(f"{name} has {', '.join(map(str, size))}, expected height and width, or shortest_edge")
        return int(size["height"]), int(size["width"])
    return int(size), int(size)
