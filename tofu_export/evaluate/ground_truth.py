"""Read classes of images in one flat folder from a file with a line per image, as for ImageNet's validation set."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from tofu_export.errors import OptionError

__all__ = ["read_ground_truth"]

_LINE: Final = re.compile(r"\s*([^\s,;]+)[\s,;]+([^\s,;]+)")
_LISTED: Final = 3


def read_ground_truth(
    path: Path, images: Sequence[str], num_classes: int, classes: Mapping[str, int] | None
) -> list[int]:
    """Return the class of each image.

    Args:
        path: a text file with lines `image class`, or with a comma between; a first line with headings is allowed.
            An image is its path in the folder, its name, or its name without suffix; a class is a number from 0, or one
            of `classes`.
        images: paths in the folder.
        num_classes: number of classes of the model.
        classes: class by name; None to accept only numbers.

    Raises:
        OptionError: the file cannot be read, lacks a line for an image, or names an unknown class.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"cannot read the ground truth {path}: {error}; expected lines `image class`") from error
    found = {match[1]: match[2] for line in lines if (match := _LINE.match(line))}
    if not found:
        raise OptionError(
            f"ground truth {path} has no line `image class`. A list of numbers does not say which image is which, "
            "and ImageNet's own numbers are not the classes of models: write a line for each image"
        )
    known = classes or {}
    by_name = {
        image: known[text] if text in known else int(text)
        for image, text in found.items()
        if text in known or text.isdecimal()
    }
    labels = [_label(by_name, image) for image in images]
    missing = [image for image, label in zip(images, labels, strict=True) if label is None]
    if missing:
        raise OptionError(
            f"ground truth {path} has no class for {len(missing)} of {len(images)} images "
            f"({', '.join(missing[:_LISTED])}{', ...' if len(missing) > _LISTED else ''}): expected lines "
            "`image class`, the class a number from 0 or a class name"
        )
    chosen = [label for label in labels if label is not None]
    if max(chosen, default=0) >= num_classes:
        from_one = min(chosen) == 1 and max(chosen) == num_classes
        raise OptionError(
            f"ground truth {path} has class {max(chosen)}, the model's are 0 to {num_classes - 1}"
            f"{': its numbers begin at 1' if from_one else ''}"
        )
    return chosen


def _label(by_name: Mapping[str, int], image: str) -> int | None:
    pure = PurePosixPath(image)
    return next((by_name[key] for key in (image, pure.name, pure.stem) if key in by_name), None)
