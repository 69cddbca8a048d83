"""Pair images for comparison, and read them as RGB. Pillow and numpy only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tofu_export.errors import OptionError, some_of
from tofu_export.images.inputs import image_files, open_image

__all__ = ["ImageSets", "Pair", "batches_of", "find_images", "read_rgb"]

_SHOWN = 3
"""Number of names that a message lists."""


@dataclass(frozen=True)
class Pair:
    """Two images of one name."""

    name: str
    a: Path
    b: Path


@dataclass(frozen=True)
class ImageSets:
    """Images of both sides.

    Attributes:
        a: files of the first side, sorted by name.
        b: files of the second side, sorted by name.
        pairs: files of the same name; empty if the sides have no name in common.
    """

    a: tuple[Path, ...]
    b: tuple[Path, ...]
    pairs: tuple[Pair, ...]


def find_images(a: Path, b: Path, *, paired: bool | None = None) -> ImageSets:
    """Return the images of two files, which are one pair, or of two folders, where equal names make a pair.

    A name is the path inside the folder without the suffix: a PNG may be compared with a JPEG.

    Args:
        a: a file or a folder, searched recursively.
        b: a path of the same kind.
        paired: True: every image must have its pair. False: no pairs. None: pairs if the sides have a name in common,
            and then every image must have its pair.

    Raises:
        OptionError: a path does not exist or has no images, a file is given with a folder, a name occurs twice, or
            images lack their pair.
    """
    for path in (a, b):
        if not path.exists():
            raise OptionError(f"{path} does not exist, expected an image or a folder of images")
    if a.is_dir() is not b.is_dir():
        folder, file = (a, b) if a.is_dir() else (b, a)
        raise OptionError(f"{file} is a file and {folder} a folder: compare two images, or two folders")
    if not a.is_dir():
        return ImageSets((a,), (b,), () if paired is False else (Pair(a.stem, a, b),))
    left, right = _named(a), _named(b)
    shared = [name for name in left if name in right]
    pairs: tuple[Pair, ...] = ()
    if paired or (paired is None and shared):
        for here, there, mine, others in ((a, b, left, right), (b, a, right, left)):
            if alone := [name for name in mine if name not in others]:
                names = some_of([mine[name].name for name in alone], _SHOWN)
                raise OptionError(
                    f"{names} in {here} have no image of that name in {there}: complete the folders, or compare "
                    "them as whole sets with --metrics fid,kid"
                )
        pairs = tuple(Pair(name, left[name], right[name]) for name in shared)
    return ImageSets(tuple(left.values()), tuple(right.values()), pairs)


def read_rgb(file: Path) -> NDArray[np.uint8]:
    """Read an image as uint8 [3, H, W]; grey becomes RGB, an alpha channel is dropped.

    Raises:
        OptionError: the image cannot be read, or is larger than Pillow allows.
    """
    return np.ascontiguousarray(np.asarray(open_image(file, 3)).transpose(2, 0, 1))


def batches_of(files: Sequence[Path], size: int) -> Iterator[NDArray[np.uint8]]:
    """Yield all images as batches [B, 3, H, W] of at most `size` neighbours of equal height and width.

    Raises:
        OptionError: as in `read_rgb`.
    """
    held: list[NDArray[np.uint8]] = []
    for file in files:
        image = read_rgb(file)
        if held and (len(held) == size or held[0].shape != image.shape):
            yield np.stack(held)
            held = []
        held.append(image)
    if held:
        yield np.stack(held)


def _named(folder: Path) -> dict[str, Path]:
    files = image_files(folder)
    if not files:
        raise OptionError(f"{folder} holds no image, expected .png, .jpg or other image files")
    names = [file.relative_to(folder).with_suffix("").as_posix() for file in files]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise OptionError(f"{folder} holds several images called {twice[0]}: keep one of each name")
    return dict(zip(names, files, strict=True))
