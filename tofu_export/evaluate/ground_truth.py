"""Read classes of images in one flat folder from a file with a line per image, as for ImageNet's validation set."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from tofu_export.errors import OptionError

__all__ = ["read_ground_truth"]

_MARKS: Final = ("\t", ",", ";")
"""Characters between the columns of a line, or else white space."""
_LISTED: Final = 3


def read_ground_truth(
    path: Path, images: Sequence[str], num_classes: int, classes: Mapping[str, int] | None
) -> list[int]:
    """Return the class of each image.

    Args:
        path: a text file with lines `image class`, or with a tab, comma or semicolon between; a first line with
            headings and further columns are allowed. An image is its path in the folder, its name, or its name without
            suffix; a class is a number from 0, or one of `classes`.
        images: paths in the folder.
        num_classes: number of classes of the model.
        classes: class by name; None to accept only numbers.

    Raises:
        OptionError: the file cannot be read, lacks a line for an image, contradicts itself, names an unknown class, or
            a name in it stands for several images.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"cannot read the ground truth {path}: {error}; expected lines `image class`") from error
    found = [fields for fields in map(_fields, lines) if fields is not None]
    if not found:
        raise OptionError(
            f"ground truth {path} has no line `image class`. A list of numbers does not say which image is which, "
            "and ImageNet's own numbers are not the classes of models: write a line for each image"
        )
    by_name = _by_name(found, classes or {}, path)
    keys = [_key(by_name, image) for image in images]
    missing = [image for image, key in zip(images, keys, strict=True) if key is None]
    if missing:
        raise OptionError(
            f"ground truth {path} has no class for {len(missing)} of {len(images)} images "
            f"({', '.join(missing[:_LISTED])}{', ...' if len(missing) > _LISTED else ''}): expected lines "
            "`image class`, the class a number from 0 or a class name"
        )
    chosen = [key for key in keys if key is not None]
    twice = next((key for key, count in Counter(chosen).items() if count > 1), None)
    if twice is not None:
        same = [image for image, key in zip(images, keys, strict=True) if key == twice]
        raise OptionError(
            f"ground truth {path} has a line for {twice}, which {' and '.join(same[:_LISTED])} are: write the path of "
            "each in the folder"
        )
    largest, smallest = max(by_name.values()), min(by_name.values())
    if largest >= num_classes:
        from_one = smallest == 1 and largest == num_classes
        raise OptionError(
            f"ground truth {path} has class {largest}, the model's are 0 to {num_classes - 1}"
            f"{': its numbers begin at 1' if from_one else ''}"
        )
    return [by_name[key] for key in chosen]


def _fields(line: str) -> tuple[str, str] | None:
    """Return image and class of a line; None for a line without both."""
    mark = next((mark for mark in _MARKS if mark in line), None)
    parts = line.split(maxsplit=1) if mark is None else next(csv.reader([line], delimiter=mark))
    texts = [part.strip() for part in parts]
    return (texts[0], texts[1]) if len(texts) > 1 and texts[0] and texts[1] else None


def _by_name(found: Sequence[tuple[str, str]], known: Mapping[str, int], path: Path) -> dict[str, int]:
    """Return the class by the name of an image, for the lines that name one."""
    by_name: dict[str, int] = {}
    for image, text in found:
        number = _class(text, known)
        if number is None:
            continue
        if by_name.setdefault(image, number) != number:
            raise OptionError(f"ground truth {path} has two classes for {image}: {by_name[image]} and {number}")
    return by_name


def _class(text: str, known: Mapping[str, int]) -> int | None:
    first, *others = text.split()
    if text in known:
        return known[text]
    if not all(other.replace(".", "", 1).isdecimal() for other in others):  # boxes may follow, other words not
        return None
    return known[first] if first in known else int(first) if first.isdecimal() else None


def _key(by_name: Mapping[str, int], image: str) -> str | None:
    pure = PurePosixPath(image)
    return next((key for key in (image, pure.name, pure.stem) if key in by_name), None)
