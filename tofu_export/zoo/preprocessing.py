"""What options or weights say about preprocessing: the weights override timm's default, and options override both."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from tofu_export.artifact.preprocessing import INTERPOLATIONS, Preprocessing, check_entries
from tofu_export.errors import WeightsError
from tofu_export.options.declaration import Section, opt

__all__ = ["PROCESSOR", "PreprocessingOptions", "for_channels", "read_processor"]

PROCESSOR: Final = "preprocessor_config.json"
"""File that `transformers` writes beside a checkpoint."""

_SAID: Final = "what the weights say, or timm"
_TO_ONE: Final = 1 / 255
_DEFAULT_STD: Final = 1.0


@dataclass(frozen=True)
class PreprocessingOptions:
    """Entries of `Preprocessing` that an option, or a file beside the weights, states; None for those that it does not.

    Attributes:
        mean: mean of each channel, of pixels in [0, 1].
        std: standard deviation of each channel.
        interpolation: name of Pillow's filter.
        crop_pct: share of the resized image that the crop keeps.
        crop_mode: how the resized image is cropped.

    Raises:
        OptionError: a value that no image can be prepared with.
    """

    mean: tuple[float, ...] | None = opt(
        None, "Mean of each channel, of pixels in [0, 1].", Section.MODEL, metavar="LIST", unless=_SAID
    )
    std: tuple[float, ...] | None = opt(
        None, "Standard deviation of each channel.", Section.MODEL, metavar="LIST", unless=_SAID
    )
    interpolation: str | None = opt(
        None, "How images are resized: bilinear, bicubic, ...", Section.MODEL, metavar="NAME", unless=_SAID
    )
    crop_pct: float | None = opt(
        None, "Share of the resized image that is cut out.", Section.MODEL, metavar="X", unless=_SAID
    )
    crop_mode: str | None = None

    def __post_init__(self) -> None:
        check_entries(self.said())

    def said(self) -> dict[str, Any]:
        """Return name and value of each known entry."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in found.items() if value is not None}

    def over(self, other: PreprocessingOptions) -> PreprocessingOptions:
        """Return these entries, completed by those that only the other has."""
        return replace(other, **self.said())

    def onto(self, whole: Preprocessing) -> Preprocessing:
        """Return `whole` with these entries in place of its own; mean and std are adapted to its channels."""
        given = self.said()
        given |= {name: for_channels(given[name], whole.channels) for name in ("mean", "std") if name in given}
        return replace(whole, **given)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> PreprocessingOptions:
        """Read entries from a mapping with timm's names; empty values and other types are ignored.

        Raises:
            OptionError: a value that no image can be prepared with.
        """
        mean, std, pct = values.get("mean"), values.get("std"), values.get("crop_pct")
        return cls(
            mean=_row(mean),
            std=_row(std),
            interpolation=_text(values.get("interpolation")),
            crop_pct=float(pct) if isinstance(pct, int | float) and pct else None,
            crop_mode=_text(values.get("crop_mode")),
        )


def for_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Adapt a mean or std to another number of channels: one number for all, or the average of those of RGB."""
    if len(values) == channels:
        return tuple(values)
    return (round(sum(values) / len(values), 6),) * channels


def read_processor(folder: Path) -> PreprocessingOptions | None:
    """Read `preprocessor_config.json` in a folder; None without it.

    Raises:
        WeightsError: the file asks for something that timm's transform cannot do.
    """
    path = folder / PROCESSOR
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(values, Mapping):
        return None
    try:
        return _processor(values)
    except (TypeError, ValueError, KeyError, IndexError, ZeroDivisionError) as error:  # OptionError is a ValueError
        raise WeightsError(f"{path}: {error}; give what it says with --mean, --std, and without this file") from error


def _processor(values: Mapping[str, Any]) -> PreprocessingOptions:
    factor = values.get("rescale_factor", _TO_ONE)
    if values.get("do_rescale") is False or abs(factor * 255 - 1) > 1e-3:
        raise ValueError(f"it scales pixels by {factor if values.get('do_rescale', True) else 1}, expected 1/255")
    mean, std = _row(values.get("image_mean")), _row(values.get("image_std"))
    if values.get("do_normalize") is False:
        channels = len(mean or (0.0,) * 3)
        mean, std = (0.0,) * channels, (_DEFAULT_STD,) * channels
    resample = values.get("resample")
    interpolation = dict(enumerate(INTERPOLATIONS)).get(resample) if isinstance(resample, int) else None
    crop_pct, crop_mode = _crop(values)
    return PreprocessingOptions(mean, std, interpolation, crop_pct, crop_mode)


def _crop(values: Mapping[str, Any]) -> tuple[float | None, str | None]:
    """Return share and mode of the crop. A size of height and width is reached regardless of the image's ratio."""
    size = values.get("size")
    if size is None or values.get("do_resize") is False:
        return None, None
    crop = values.get("crop_size") if values.get("do_center_crop", "crop_size" in values) else None
    if crop is not None:
        crop = crop["height"] if isinstance(crop, Mapping) else int(crop)
    if isinstance(size, Mapping) and "shortest_edge" in size:
        edge = size["shortest_edge"]
        if "crop_pct" in values and crop is None:
            return float(values["crop_pct"]), "center"
        return (1.0 if crop is None else crop / edge), "center"
    if isinstance(size, Mapping) and "height" in size:
        return (1.0 if crop is None else crop / size["height"]), "squash"
    # A bare number: the short edge where a crop follows, both edges where none does.
    return (1.0, "squash") if crop is None else (crop / int(size), "center")


def _row(values: Any) -> tuple[float, ...] | None:
    if isinstance(values, int | float) and not isinstance(values, bool):
        return (float(values),)
    if not isinstance(values, list | tuple) or not values:
        return None
    return tuple(float(value) for value in values)


def _text(value: Any) -> str | None:
    return value.lower() if isinstance(value, str) and value else None
