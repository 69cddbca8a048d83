"""Options of int8, int8-fp16 and fp8 files: blocks to skip, calibration images, FP8 attention."""

from __future__ import annotations

from dataclasses import dataclass

from tofu_export.errors import OptionError
from tofu_export.options.declaration import Section, opt

__all__ = ["CALIBRATION_IMAGES", "GENERATED_IMAGES", "Quantization", "calibration_images", "parse_skipped"]

CALIBRATION_IMAGES = 128
"""Number of real images used for calibration by default."""

GENERATED_IMAGES = 32
"""Number of generated or demo images used for calibration by default: more of them give the same ranges."""


def calibration_images(*, given: bool) -> int:
    """Return the default number of calibration images: more if images are given than if they are generated."""
    return CALIBRATION_IMAGES if given else GENERATED_IMAGES


def parse_skipped(text: str) -> tuple[str, ...]:
    """Read a comma list of blocks, numbered from 0, and of modules inside blocks.

    Raises:
        OptionError: a part is neither a block nor a module.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    for part in parts:
        if not all(word.isidentifier() or word.isdecimal() for word in part.split(".")):
            raise OptionError(
                f"--quantize-skip is {text!r}, expected numbers of blocks and names of modules in them with commas "
                "between, for example 0,11,attn.proj"
            )
    return tuple(dict.fromkeys(parts))


@dataclass(frozen=True)
class Quantization:
    """Options of quantised files.

    Attributes:
        skip: blocks, by number from 0, and modules of blocks whose products are not quantised.
        images: how many images set the ranges of activations; None for `calibration_images`.
        attention: FP8 files multiply in FP8 inside of attention, too.
    """

    skip: tuple[str, ...] = opt(
        (), "Blocks (0 is the first) and modules in blocks that int8 and fp8 leave out, such as 0,11,mlp.fc2.",
        Section.FILES, flags=("--quantize-skip",), metavar="LIST", parse=parse_skipped,
    )  # fmt: skip
    images: int | None = opt(
        None, "Images that int8 and fp8 take ranges of activations from.", Section.CHECK,
        flags=("--calibration-images",), metavar="N", unless=f"{CALIBRATION_IMAGES} of --images, else "
        f"{GENERATED_IMAGES}", minimum=1,
    )  # fmt: skip
    attention: bool = opt(
        False, "In fp8, also quantise the two products inside of attention.", Section.FILES,
        flags=("--quantize-attention",),
    )  # fmt: skip
