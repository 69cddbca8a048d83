"""How images are prepared for a model, as its file states it: one record, with the entries of timm's data config."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from tofu_export.errors import OptionError
from tofu_export.system.typed_json import JsonObject, from_plain

__all__ = ["ENTRIES", "INTERPOLATIONS", "Preprocessing", "check_entries"]

INTERPOLATIONS: Final = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Names of Pillow's filters by its numbers."""

_CROP_MODES: Final = ("center", "squash", "border")

_ROUNDING: Final = {"rel_tol": 1e-6, "abs_tol": 1e-9}
"""Differences of numbers that mean nothing."""

_LARGEST: Final = 2.0
"""Largest mean or std of pixels in [0, 1]; larger ones are of pixels up to 255."""

_EXPECTED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "interpolation": (lambda name: name in INTERPOLATIONS, f"one of {', '.join(INTERPOLATIONS)}"),
    "mean": (
        lambda row: bool(row) and all(abs(value) <= _LARGEST for value in row),
        "finite numbers for pixels in [0, 1]; those for pixels up to 255 are divided by 255",
    ),
    "std": (
        lambda row: bool(row) and all(0 < value <= _LARGEST for value in row),
        "numbers above 0 for pixels in [0, 1]; those for pixels up to 255 are divided by 255",
    ),
    "crop_pct": (lambda share: 0 < share <= 2, "a share of the image, for example 0.9"),
    "crop_mode": (lambda name: name in _CROP_MODES, f"one of {', '.join(_CROP_MODES)}"),
}
"""What the value of an entry must be, in code and in words."""

ENTRIES: Final = tuple(_EXPECTED)
"""Names of the entries of `Preprocessing` but the size."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How images are resized, cropped and normalised for a model; entries have timm's names, order and defaults.

    Attributes:
        input_size: channels, height and width of the model's input.
        interpolation: name of Pillow's filter, of `INTERPOLATIONS`.
        mean: mean of each channel, of pixels in [0, 1].
        std: standard deviation of each channel.
        crop_pct: share of the resized image that the crop keeps.
        crop_mode: how the resized image is cut to `input_size`: `center`, `squash` or `border`.

    Raises:
        OptionError: no image can be prepared with a value, or mean and std do not have one for each channel.

    Source: timm 1.0.31, `data.config.resolve_data_config`.
    """

    input_size: tuple[int, int, int]
    interpolation: str = "bicubic"
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float = 0.875
    crop_mode: str = "center"

    def __post_init__(self) -> None:
        if min(self.input_size) < 1:
            size = ", ".join(map(str, self.input_size))
            raise OptionError(f"input_size is [{size}], expected every size to be at least 1")
        check_entries({name: getattr(self, name) for name in ENTRIES})
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != self.channels:
                raise OptionError(f"{name} is {_words(values)}, expected {self.channels} values, one for each channel")

    @classmethod
    def uniform(cls, input_size: tuple[int, int, int], mean: float = 0.5, std: float = 0.5) -> Preprocessing:
        """Return a preprocessing for which no model is known: the same for all channels, by default from -1 to 1."""
        return cls(input_size=input_size, mean=(mean,) * input_size[0], std=(std,) * input_size[0])

    @property
    def channels(self) -> int:
        """Channels of the model's input."""
        return self.input_size[0]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the model's input."""
        return self.input_size[1:]

    def with_size(self, input_size: Sequence[int | None]) -> Preprocessing:
        """Return the same for an input of these channels, height and width; an open size (None) stays as it is.

        Raises:
            OptionError: a size is below 1, or mean and std are for other channels.
        """
        channels, height, width = (
            own if size is None else size for size, own in zip(input_size, self.input_size, strict=True)
        )
        return replace(self, input_size=(channels, height, width))

    def differences(self, other: Preprocessing) -> dict[str, tuple[Any, Any]]:
        """Return by name the values of entries, here and there, that differ by more than rounding; not the size."""
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in ENTRIES}
        return {name: (here, there) for name, (here, there) in pairs.items() if not _same(here, there)}

    def as_dict(self) -> JsonObject:
        """Return the entries by name, as in the metadata of files and in timm's data config."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: object) -> Preprocessing:
        """Read what `as_dict` returned, also after a round trip through JSON; without an entry, timm's default applies.

        Raises:
            OptionError: an entry is missing that has no default, or its value cannot be used.
        """
        if isinstance(values, Mapping):
            values = {name: value for name, value in values.items() if value is not None}
        return from_plain(cls, values, "preprocessing")


def check_entries(values: Mapping[str, Any]) -> None:
    """Check the values of some entries of `Preprocessing`, by name; not the size.

    Raises:
        OptionError: no image can be prepared with one of them.
    """
    for name, value in values.items():
        fits, expected = _EXPECTED[name]
        if not fits(value):
            raise OptionError(f"{name} is {_words(value)}, expected {expected}")


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, str):
        return bool(one == other)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return math.isclose(one, other, **_ROUNDING)


def _words(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"{number:g}" for number in value) or "empty"
    return repr(value) if isinstance(value, str) else f"{value:g}"
