"""Networks with random weights in files under the published names, and small images.

The files go the way that published ones go; only the numbers in them are no good.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from tofu_export.image_metrics.weights import inception_weights, lpips_weights

SQUEEZE = "squeeze"
"""The smallest network of LPIPS: 5 MB."""


def save_squeezenet(folder: Path, seed: int = 0) -> Path:
    with seeded(seed):
        network = torchvision.models.squeezenet1_1(weights=None)
    path = folder / lpips_weights(SQUEEZE).name
    torch.save(network.state_dict(), path)
    return path


def save_inception(folder: Path, seed: int = 0) -> Path:
    """95 MB. The class reads its weights when it is made; here it keeps those that it drew."""
    path = folder / inception_weights().name
    with seeded(seed), patch.object(FeatureExtractorInceptionV3, "load_state_dict"):
        torch.save({}, path)
        network = FeatureExtractorInceptionV3("any", ["64"], feature_extractor_weights_path=str(path))
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight)  # values that do not fade away through 94 layers
    torch.save(network.state_dict(), path)
    return path


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def pixels(seed: int, height: int = 32, width: int = 40) -> NDArray[np.uint8]:
    """Noise over a gradient, uint8 [H, W, 3]."""
    random = np.random.default_rng(seed)
    slope = np.linspace(0, 120, width)[None, :, None] + np.linspace(0, 60, height)[:, None, None]
    return (slope + random.integers(0, 70, (height, width, 3))).astype(np.uint8)


def save_image(path: Path, values: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def save_images(folder: Path, seeds: range, **size: Any) -> Path:
    """A folder with 00000.png, 00001.png, ..."""
    for index, seed in enumerate(seeds):
        save_image(folder / f"{index:05}.png", pixels(seed, **size))
    return folder
