"""Find the images of a folder: by suffix, or by their first bytes if the suffix is unknown."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image

from tofu_export.errors import OptionError

__all__ = ["FORMATS", "SUFFIXES", "FoundImages", "find_images", "passed_over_words"]

_ALWAYS: Final = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
_IF_BUILT_IN: Final = ("AVIF", "JPEG2000")

SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".webp", ".gif", ".tif", ".tiff", ".ppm",
     ".pgm", ".pbm", ".pnm", ".avif", ".jp2"}
)  # fmt: skip
"""Suffixes of image files."""

_BEGINNINGS: Final = (
    b"\xff\xd8\xff", b"\x89PNG\r\n", b"BM", b"GIF8", b"II*\x00", b"MM\x00*", b"P5", b"P6", b"\x00\x00\x00\x0cjP",
)  # fmt: skip
"""First bytes of images; those of WebP and AVIF follow a length."""

_NAMED: Final = 3


def _formats() -> tuple[str, ...]:
    Image.init()
    return (*_ALWAYS, *(name for name in _IF_BUILT_IN if name in Image.OPEN))


FORMATS: Final = _formats()
"""Decoders that may run, whatever the name of a file. Not EPS: Pillow hands that to Ghostscript."""


@dataclass(frozen=True)
class FoundImages:
    """Content of a folder, without hidden files and folders.

    Attributes:
        images: sorted by their path inside the folder.
        passed_over: files that are not images.
    """

    images: tuple[Path, ...]
    passed_over: tuple[Path, ...]


def find_images(folder: Path) -> FoundImages:
    """Search a folder, following links to folders; each folder once.

    Raises:
        OptionError: the folder does not exist, or a folder in it cannot be read.
    """
    if not folder.is_dir():
        raise OptionError(f"images {folder}: no such folder, expected one with .jpg, .png or other image files")
    images: list[Path] = []
    others: list[Path] = []
    seen: set[Path] = set()
    for place, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        here = Path(place)
        resolved = here.resolve()
        if resolved in seen:
            folders.clear()
            continue
        seen.add(resolved)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if not name.startswith("."):
                (images if _is_image(here / name) else others).append(here / name)
    return FoundImages(*(tuple(sorted(files, key=lambda file: _key(file, folder))) for files in (images, others)))


def _refuse(error: OSError) -> None:
    raise OptionError(f"images {error.filename}: the folder cannot be read ({error.strerror})") from error


def passed_over_words(files: tuple[Path, ...]) -> str:
    """Return a note on how many files are not images, with some names."""
    names = ", ".join(file.name for file in files[:_NAMED])
    more = ", ..." if len(files) > _NAMED else ""
    return f"{len(files)} file{'s are' if len(files) != 1 else ' is'} no image and passed over ({names}{more})"


def _key(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix()


def _is_image(file: Path) -> bool:
    if file.suffix.lower() in SUFFIXES:
        return True
    try:
        with file.open("rb") as opened:
            head = opened.read(16)
    except OSError:
        return False
    riff = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return head.startswith(_BEGINNINGS) or riff or head[4:12] in (b"ftypavif", b"ftypavis")
