"""How images are prepared in tests: the mean and spread of ImageNet's, resized and cropped as timm does by default."""

from __future__ import annotations

from tofu_export.artifact.preprocessing import Preprocessing

IMAGENET = Preprocessing(
    input_size=(3, 64, 64), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop_pct=0.9
)  # fmt: skip
