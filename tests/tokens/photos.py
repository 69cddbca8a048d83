"""Images to draw on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tofu_export.artifact.preprocessing import Preprocessing
from tofu_export.images.inputs import natural_statistics


def photo(path: Path, size: tuple[int, int] = (200, 170)) -> Path:
    x, y = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    pixels = np.stack([x, y, (np.hypot(x - 0.5, y - 0.5) < 0.3)], axis=-1)
    Image.fromarray((pixels * 255).astype(np.uint8)).save(path)
    return path


def pixels(count: int) -> Any:
    return natural_statistics(count, Preprocessing.uniform((3, 160, 160)), seed=1).pixels
