"""Images for evaluation, read batch by batch: class folders, a flat folder, the demo model's, generated ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tofu_export import demo
from tofu_export.artifact.preprocessing import Preprocessing
from tofu_export.errors import OptionError
from tofu_export.evaluate.classes import ClassOrder, class_indices, names_of_classes, order_words
from tofu_export.evaluate.ground_truth import read_ground_truth
from tofu_export.images.files import find_images, passed_over_words
from tofu_export.images.inputs import demo_set, natural_statistics, read_images

__all__ = ["ImageBatch", "ImageSource", "class_folders", "demo_source", "folder_source", "generated_source"]

_SPLITS = ("val", "validation")
"""Sub-folders that are used instead of their parent folder, as in ImageNet's layout and timm's `--split`."""

_NEVER_A_CLASS = frozenset({"train", "training", "test"})
_READERS = 4


class ImageBatch(NamedTuple):
    """Batch of images.

    Attributes:
        pixels: normalised, float32 [B, C, H, W].
        labels: classes, int64 [B]; None without classes.
        names: name of each image, for messages and real labels.
    """

    pixels: NDArray[np.float32]
    labels: NDArray[np.int64] | None
    names: tuple[str, ...]


@dataclass(frozen=True)
class ImageSource:
    """Images that are read when needed. Made by `demo_source`, `folder_source` and `generated_source`.

    Attributes:
        source: where the images come from, for the report.
        names: names of the images.
        labels: classes, int64 [n]; None without classes.
        notes: notes for the reader of the result.
        files: the files; empty for images in memory.
        pixels: images in memory, normalised; None for files.
        preprocessing: how files are prepared.
        real: False for generated images.
        skip_unreadable: leave out files that cannot be read.
        unreadable: files left out while batches were read: path and reason.
    """

    source: str
    names: tuple[str, ...]
    labels: NDArray[np.int64] | None
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    pixels: NDArray[np.float32] | None = None
    preprocessing: Preprocessing | None = None
    real: bool = True
    skip_unreadable: bool = False
    unreadable: list[str] = field(default_factory=list, compare=False)

    def __len__(self) -> int:
        return len(self.names)

    def limited(self, limit: int | None) -> ImageSource:
        """Return `limit` images spread evenly over all of them, so that every class keeps its share."""
        if limit is None or limit >= len(self):
            return self
        if limit < 1:
            raise OptionError(f"limit is {limit}, expected at least 1 image")
        return self.chosen([index * len(self) // limit for index in range(limit)])

    def chosen(self, index: Sequence[int]) -> ImageSource:
        """Return the images at these indices, in this order."""
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
            self.skip_unreadable,
        )

    def batches(self, size: int) -> Iterator[ImageBatch]:
        """Yield all images in order, `size` at a time; the last batch and those with unreadable images may be smaller.

        Raises:
            OptionError: an image cannot be read and may not be skipped, or none can be read; the message names it.
        """
        readable = 0
        with ThreadPoolExecutor(max_workers=_READERS) as pool:
            for start in range(0, len(self), size):
                rows = list(range(start, min(start + size, len(self))))
                pixels, rows = self._read(rows, pool)
                if rows:
                    readable += len(rows)
                    labels = None if self.labels is None else self.labels[rows]
                    yield ImageBatch(pixels, labels, tuple(self.names[row] for row in rows))
        if not readable and self.unreadable:
            raise OptionError(f"images {self.source}: none can be read; the first: {self.unreadable[0]}")

    def all_pixels(self) -> NDArray[np.float32]:
        """Return all images at once, [n, C, H, W]."""
        return np.concatenate([batch.pixels for batch in self.batches(64)])

    def _read(self, rows: list[int], pool: ThreadPoolExecutor) -> tuple[NDArray[np.float32], list[int]]:
        """Read the images of some rows; return them with the rows that could be read."""
        if self.pixels is not None:
            return self.pixels[rows], rows
        preprocessing = self.preprocessing
        assert preprocessing is not None  # files come with one

        def read(row: int) -> NDArray[np.float32] | OptionError:
            try:
                return read_images([self.files[row]], preprocessing)
            except OptionError as error:
                return error

        found = dict(zip(rows, pool.map(read, rows), strict=True))
        failed = [str(result) for result in found.values() if isinstance(result, OptionError)]
        if failed and not self.skip_unreadable:
            raise OptionError(f"{'; '.join(failed)}. --skip-unreadable leaves out what cannot be read")
        self.unreadable.extend(failed)
        good = {row: result for row, result in found.items() if not isinstance(result, OptionError)}
        return (np.concatenate(list(good.values())) if good else np.empty(0, np.float32)), list(good)


def demo_source() -> ImageSource:
    """Return the demo model's 1,000 held-out digits with their classes.

    Raises:
        WeightsError: this installation lacks them.
    """
    labels = demo.load_images()[1].astype(np.int64)
    names = tuple(f"digit {index}" for index in range(len(labels)))
    return ImageSource(f"the demo model's {len(labels)} held-out images", names, labels, pixels=demo_set().pixels)


def generated_source(count: int, preprocessing: Preprocessing, *, seed: int) -> ImageSource:
    """Generate images with the statistics of photographs, but no content (`inputs.natural_statistics`).

    Args:
        count: number of images.
        preprocessing: size of the images, and how they are normalised.
        seed: seed of the images.

    Raises:
        OptionError: count is below 1.
    """
    inputs = natural_statistics(count, preprocessing, seed=seed)
    names = tuple(f"image {index}" for index in range(count))
    return ImageSource(inputs.source, names, None, pixels=inputs.pixels, real=inputs.real)


def folder_source(
    path: Path,
    preprocessing: Preprocessing,
    *,
    num_classes: int | None,
    class_map: Mapping[str, int] | None = None,
    order: ClassOrder | None = None,
    class_names: Sequence[str] = (),
    ground_truth: Path | None = None,
    skip_unreadable: bool = False,
) -> ImageSource:
    """Return the images of a folder: with classes if it holds class folders, without if it holds images directly.

    Args:
        path: the folder, or one with a sub-folder `val` or `validation`, as ImageNet is laid out.
        preprocessing: how images are prepared.
        num_classes: number of classes of the model; None if classes do not matter.
        class_map: class index by folder name.
        order: order of class folders by name.
        class_names: class names of the evaluated model; folders with these names are these classes.
        ground_truth: file with the class of each image; then folders are not classes.
        skip_unreadable: leave out files that cannot be read.

    Raises:
        OptionError: no such folder, no image in it, an empty class folder, or classes that do not fit the model.
    """
    if not path.is_dir():
        raise OptionError(f"images {path}: no such folder, expected one with a folder per class")
    root = next((path / split for split in _SPLITS if (path / split).is_dir()), path)
    everything = find_images(root)
    folders = class_folders(root)
    notes = [passed_over_words(everything.passed_over)] if everything.passed_over else []
    if num_classes is None or not folders or ground_truth is not None:
        files = everything.images
        _check_any(files, root)
        names = tuple(file.relative_to(root).as_posix() for file in files)
        labels = None
        if ground_truth is not None and num_classes is not None:
            known = names_of_classes(num_classes, class_map=class_map, class_names=class_names)
            labels = np.array(read_ground_truth(ground_truth, names, num_classes, known), dtype=np.int64)
        return ImageSource(
            str(root), names, labels, tuple(notes), files, preprocessing=preprocessing, skip_unreadable=skip_unreadable
        )
    lost = [folder.name for folder in folders if folder.name.lower() in _NEVER_A_CLASS]
    if lost:
        raise OptionError(
            f"images {root}: {lost[0]!r} is no class, and there is no {' or '.join(_SPLITS)} beside it: give the "
            "folder that holds one folder per class"
        )
    found = {folder.name: find_images(folder).images for folder in folders}
    index = class_indices(tuple(found), num_classes, class_map=class_map, order=order, class_names=class_names)
    empty = [name for name, files in found.items() if not files]
    if empty and len(found) == num_classes:
        raise OptionError(f"class folder {root / empty[0]} has no image in it: add some, or give --class-map FILE")
    pairs = [(file, index[name]) for name, files in found.items() for file in files]
    _check_any(pairs, root)
    if words := order_words(index, num_classes, class_map=class_map, order=order, class_names=class_names):
        notes.append(words)
    if empty or len(found) < num_classes:
        notes.append(f"{len(found) - len(empty)} of the model's {num_classes} classes have images")
    loose = sum(file.parent == root for file in everything.images)
    if loose:
        notes.append(f"{loose} images in no class folder are left out")
    return ImageSource(
        str(root),
        tuple(file.relative_to(root).as_posix() for file, _ in pairs),
        np.array([label for _, label in pairs], dtype=np.int64),
        tuple(notes),
        tuple(file for file, _ in pairs),
        preprocessing=preprocessing,
        skip_unreadable=skip_unreadable,
    )


def class_folders(root: Path) -> list[Path]:
    """Return the visible folders in `root`, by name."""
    return sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _check_any(found: Sequence[object], root: Path) -> None:
    if not found:
        raise OptionError(f"images {root}: no image in it, expected .jpg, .png or other image files")
