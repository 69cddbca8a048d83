"""Images to judge a model by, read batch by batch: class folders, a flat folder, the demo model's, generated ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tofu_export import demo
from tofu_export.errors import OptionError
from tofu_export.evaluate.classes import ClassOrder, class_indices
from tofu_export.inputs import demo_set, image_files, natural_statistics, read_images

__all__ = ["ImageBatch", "ImageSource", "class_folders", "demo_source", "folder_source", "generated_source"]

_SPLITS = ("val", "validation")
"""Sub-folders that stand for a folder which holds one of them, as in ImageNet's layout and timm's `--split`."""

_NEVER_A_CLASS = frozenset({"train", "training", "test"})
_READERS = 4


class ImageBatch(NamedTuple):
    """Some images.

    Attributes:
        pixels: normalised, float32 [B, C, H, W].
        labels: classes, int64 [B]; None where they have none.
        names: of each image, for messages and real labels.
    """

    pixels: NDArray[np.float32]
    labels: NDArray[np.int64] | None
    names: tuple[str, ...]


@dataclass(frozen=True)
class ImageSource:
    """Images that are read when they are needed. Made by `demo_source`, `folder_source` and `generated_source`.

    Attributes:
        source: where they come from, for the report.
        names: of the images.
        labels: classes, int64 [n]; None where they have none.
        notes: what a reader of the result should know.
        files: the files; empty for images in memory.
        pixels: images in memory, normalised; None for files.
        preprocessing: how files are prepared.
        real: False for generated images.
    """

    source: str
    names: tuple[str, ...]
    labels: NDArray[np.int64] | None
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    pixels: NDArray[np.float32] | None = None
    preprocessing: Mapping[str, Any] | None = None
    real: bool = True

    def __len__(self) -> int:
        return len(self.names)

    def limited(self, limit: int | None) -> ImageSource:
        """`limit` images spread evenly over all of them, so that every class keeps its share."""
        if limit is None or limit >= len(self):
            return self
        if limit < 1:
            raise OptionError(f"limit is {limit}, expected at least 1 image")
        return self.chosen([index * len(self) // limit for index in range(limit)])

    def chosen(self, index: Sequence[int]) -> ImageSource:
        """The images at these places, in this order."""
        rows = np.asarray(index, dtype=np.int64)
        return ImageSource(
            self.source,
            tuple(self.names[row] for row in rows),
            None if self.labels is None else self.labels[rows],
            self.notes,
            tuple(self.files[row] for row in rows) if self.files else (),
            None if self.pixels is None else self.pixels[rows],
            self.preprocessing,
            self.real,
        )

    def batches(self, size: int) -> Iterator[ImageBatch]:
        """All images in order, `size` at a time; the last batch may be smaller.

        Raises:
            OptionError: an image cannot be read; the message names it.
        """
        with ThreadPoolExecutor(max_workers=_READERS) as pool:
            for start in range(0, len(self), size):
                rows = slice(start, start + size)
                labels = None if self.labels is None else self.labels[rows]
                yield ImageBatch(self._pixels(rows, pool), labels, self.names[rows])

    def all_pixels(self) -> NDArray[np.float32]:
        """All images at once, [n, C, H, W]."""
        return np.concatenate([batch.pixels for batch in self.batches(64)])

    def _pixels(self, rows: slice, pool: ThreadPoolExecutor) -> NDArray[np.float32]:
        if self.pixels is not None:
            return self.pixels[rows]
        preprocessing = self.preprocessing
        assert preprocessing is not None  # files come with one
        return np.concatenate(list(pool.map(lambda file: read_images([file], preprocessing), self.files[rows])))


def demo_source() -> ImageSource:
    """The demo model's 1,000 held-out digits with their classes.

    Raises:
        WeightsError: this installation lacks them.
    """
    labels = demo.load_images()[1].astype(np.int64)
    names = tuple(f"digit {index}" for index in range(len(labels)))
    return ImageSource(f"the demo model's {len(labels)} held-out images", names, labels, pixels=demo_set().pixels)


def generated_source(count: int, preprocessing: Mapping[str, Any], *, seed: int) -> ImageSource:
    """Images with the statistics of photographs and nothing to see on them (`inputs.natural_statistics`).

    Args:
        count: how many.
        preprocessing: input_size (C, H, W), mean and std.
        seed: fixes them.

    Raises:
        OptionError: count is below 1.
    """
    mean, std = preprocessing["mean"], preprocessing["std"]
    inputs = natural_statistics(count, *preprocessing["input_size"], seed=seed, mean=mean, std=std)
    names = tuple(f"image {index}" for index in range(count))
    return ImageSource(inputs.source, names, None, pixels=inputs.pixels, real=inputs.real)


def folder_source(
    path: Path,
    preprocessing: Mapping[str, Any],
    *,
    num_classes: int | None,
    class_map: Mapping[str, int] | None = None,
    order: ClassOrder | None = None,
) -> ImageSource:
    """The images of a folder: with classes where it holds class folders, without where images lie in it directly.

    Args:
        path: the folder, or one with a sub-folder `val` or `validation`, as ImageNet is laid out.
        preprocessing: mean, std, input_size and so on, as timm's data config has them.
        num_classes: of the model; None where classes do not matter.
        class_map: class index by folder name.
        order: of class folders by name.

    Raises:
        OptionError: no such folder, no image in it, an empty class folder, or classes that do not fit the model.
    """
    if not path.is_dir():
        raise OptionError(f"images {path}: no such folder, expected one with a folder per class")
    root = next((path / split for split in _SPLITS if (path / split).is_dir()), path)
    folders = class_folders(root)
    if num_classes is None or not folders:
        files = image_files(root)
        _check_any(files, root)
        names = tuple(file.relative_to(root).as_posix() for file in files)
        return ImageSource(str(root), names, None, files=tuple(files), preprocessing=preprocessing)
    lost = [folder.name for folder in folders if folder.name.lower() in _NEVER_A_CLASS]
    if lost:
        raise OptionError(
            f"images {root}: {lost[0]!r} is no class, and there is no {' or '.join(_SPLITS)} beside it: give the "
            "folder that holds one folder per class"
        )
    found = {folder.name: image_files(folder) for folder in folders}
    index = class_indices(tuple(found), num_classes, class_map=class_map, order=order)
    empty = [name for name, files in found.items() if not files]
    if empty and len(found) == num_classes:
        raise OptionError(f"class folder {root / empty[0]} has no image in it: add some, or give --class-map FILE")
    pairs = [(file, index[name]) for name, files in found.items() for file in files]
    _check_any(pairs, root)
    notes = [f"{len(found) - len(empty)} of the model's {num_classes} classes have images"] if empty else []
    if len(found) < num_classes:
        notes = [f"{len(found) - len(empty)} of the model's {num_classes} classes have images"]
    loose = len(image_files(root)) - len(pairs)
    if loose:
        notes.append(f"{loose} images in no class folder are left out")
    return ImageSource(
        str(root),
        tuple(file.relative_to(root).as_posix() for file, _ in pairs),
        np.array([label for _, label in pairs], dtype=np.int64),
        tuple(notes),
        tuple(file for file, _ in pairs),
        preprocessing=preprocessing,
    )


def class_folders(root: Path) -> list[Path]:
    """The visible folders in `root`, by name."""
    return sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _check_any(found: Sequence[object], root: Path) -> None:
    if not found:
        raise OptionError(f"images {root}: no image in it, expected .jpg, .png or other image files")
