"""Folders of small pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (40, 48)) -> Path:
    """Write a colourful PNG or JPEG there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def class_folders(root: Path, counts: dict[str, int]) -> Path:
    """Write so many pictures into each folder."""
    for number, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for index in range(count):
            picture(root / name / f"{index}.png", seed=100 * number + index)
    return root
