"""The demo model and its data: a small ViT that reads handwritten digits, trained by `examples/train_demo_vit.py`.

It has 197 tokens and 12 layers like ViT-B/16, in a few megabytes: it shows the effect of Token Fusion on accuracy
without any download. The images are held out from training. Importing the package loads neither torch nor timm.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from tofu_export.artifact.preprocessing import Preprocessing
from tofu_export.errors import WeightsError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["PREPROCESSING", "build_model", "load_images", "weights_path"]

PREPROCESSING: Final = Preprocessing(
    input_size=(1, 28, 28), interpolation="nearest", mean=(0.1307,), std=(0.3081,), crop_pct=1.0, crop_mode="center"
)
"""Preprocessing of its images."""

_FOLDER: Final = Path(__file__).parent

_HEAD_DIM: Final = 32


def build_model(image_size: tuple[int, int] = (28, 28), *, num_classes: int = 10, **arguments: Any) -> nn.Module:
    """Build the demo model with random weights as initialised by timm.

    Args:
        image_size: height and width in pixels, multiples of 2.
        num_classes: width of the classifier, 0 for none.
        arguments: further arguments of timm's `VisionTransformer`, which override the demo model's own.

    Raises:
        WeightsError: the weights file, whose width the model takes, is missing or damaged.
    """
    from timm.models.vision_transformer import VisionTransformer

    width = _embed_dim()
    own = {"patch_size": 2, "in_chans": 1, "embed_dim": width, "depth": 12, "num_heads": width // _HEAD_DIM}
    model = VisionTransformer(img_size=image_size, num_classes=num_classes, **{**own, **arguments})
    # Attributes that timm sets on registered models, and its helpers read.
    config: dict[str, Any] = {**PREPROCESSING.as_dict(), "num_classes": 10, "classifier": "head", "tag": "demo"}
    model.pretrained_cfg = config  # type: ignore[assignment]  # nn.Module types its attributes as tensors
    return model


def weights_path() -> Path:
    """Return the path of the demo model's weights.

    Raises:
        WeightsError: this installation lacks the file.
    """
    return _existing("demo_vit.safetensors")


def load_images() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Load the held-out digits: images uint8 [n, 28, 28], 0 is background, and their classes uint8 [n].

    Raises:
        WeightsError: this installation lacks the file.
    """
    with np.load(_existing("demo_images.npz"), allow_pickle=False) as archive:
        return archive["images"], archive["labels"]


def _embed_dim() -> int:
    from safetensors import SafetensorError, safe_open

    path = weights_path()
    try:
        with safe_open(path, framework="np") as file:
            return int(file.get_slice("cls_token").get_shape()[-1])
    except SafetensorError as error:
        raise WeightsError(f"{path} is damaged ({error}): reinstall tofu-export") from error


def _existing(name: str) -> Path:
    path = _FOLDER / name
    if not path.is_file():
        raise WeightsError(f"{path} is missing: reinstall tofu-export, or train it with examples/train_demo_vit.py")
    return path
