"""Cache decoded images in one file, for runs of many models on the same images."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from tofu_export.artifact.preprocessing import Preprocessing
from tofu_export.evaluate.images import ImageSource
from tofu_export.system.files import staging

__all__ = ["cached"]

_BATCH = 64


def cached(source: ImageSource, folder: Path) -> ImageSource:
    """Return the images read from a float32 array [n, C, H, W] in `folder`, which is written if missing.

    The file's name is a hash of all that the array depends on: the image files with their sizes and times of change,
    and how they are prepared. Images that are in memory stay there.

    Raises:
        OptionError: an image cannot be read.
        OutputError: the folder cannot be written.
    """
    preprocessing = source.preprocessing
    if source.pixels is not None or preprocessing is None:
        return source
    name = f"pixels-{_digest(source, preprocessing)}.npy"
    if not (folder / name).is_file():
        shape = (len(source), *preprocessing.input_size)
        with staging(folder) as stage:
            array = open_memmap(stage.path(name), mode="w+", dtype=np.float32, shape=shape)
            done = 0
            for batch in source.batches(_BATCH):
                array[done : done + len(batch.pixels)] = batch.pixels
                done += len(batch.pixels)
            array.flush()
            del array
            stage.publish(name)
    pixels = np.asarray(np.load(folder / name, mmap_mode="r", allow_pickle=False))
    return replace(source, pixels=pixels, files=())


def _digest(source: ImageSource, preprocessing: Preprocessing) -> str:
    files = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in source.files]
    text = json.dumps([files, preprocessing.as_dict()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
