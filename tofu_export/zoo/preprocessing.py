"""What options or weights say about preprocessing: the weights override timm's default, and options override both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from tofu_export.artifact.preprocessing import Preprocessing, check_entries
from tofu_export.errors import OptionError
from tofu_export.options.declaration import Section, opt

__all__ = ["PreprocessingOptions", "for_channels", "row_of"]

_SAID: Final = "what the weights say, or timm"


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
        """Return `whole` with these entries in place of its own.

        One number of a mean or std is for all channels; those of RGB are averaged for one channel.

        Raises:
            OptionError: mean or std have another number of values than the input has channels.
        """
        given = self.said()
        for name in {"mean", "std"} & given.keys():
            values = given[name]
            if len(values) not in (1, whole.channels) and (len(values), whole.channels) != (3, 1):
                raise OptionError(
                    f"{name} has {len(values)} values, the model has {whole.channels} input channels: give one for "
                    f"each with --{name}"
                )
            given[name] = for_channels(values, whole.channels)
        return replace(whole, **given)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> PreprocessingOptions:
        """Read entries from a mapping with timm's names; empty values and other types are ignored.

        Raises:
            OptionError: a value that no image can be prepared with.
        """
        mean, std, pct = values.get("mean"), values.get("std"), values.get("crop_pct")
        return cls(
            mean=row_of(mean),
            std=row_of(std),
            interpolation=_text(values.get("interpolation")),
            crop_pct=float(pct) if isinstance(pct, int | float) and pct else None,
            crop_mode=_text(values.get("crop_mode")),
        )


def for_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Adapt a mean or std to another number of channels: one number for all, or the average of those of RGB."""
    if len(values) == channels:
        return tuple(values)
    return (round(sum(values) / len(values), 6),) * channels


def row_of(values: Any) -> tuple[float, ...] | None:
    """Return a mean or std from a number, a list or an array; None for another value, or none."""
    rows = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(rows, int | float) and not isinstance(rows, bool):
        return (float(rows),)
    if not isinstance(rows, list | tuple) or not rows:
        return None
    return tuple(float(value) for value in rows)


def _text(value: Any) -> str | None:
    return value.lower() if isinstance(value, str) and value else None
