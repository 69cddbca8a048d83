"""Inputs of a UNet under the names of diffusers' ONNX pipelines, and seeded values for them. Numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tofu_export.diffusion.options import LatentSize

__all__ = ["OUTPUT_NAME", "SAMPLE", "TEXT", "TIMESTEP", "UnetInputs"]

SAMPLE, TIMESTEP, TEXT = "sample", "timestep", "encoder_hidden_states"
POOLED, TIME_IDS = "text_embeds", "time_ids"
OUTPUT_NAME = "out_sample"

_STEPS = 1000
"""Number of noise levels that a UNet is trained for."""
_MICRO_CONDITIONS = 6
"""Number of size and crop inputs of SDXL: original, top left, target, two numbers each."""


@dataclass(frozen=True)
class UnetInputs:
    """Inputs of a UNet.

    Attributes:
        in_channels: channels of the latent image.
        latent: its height and width.
        text_tokens: text tokens.
        text_channels: channels of a text token.
        pooled_channels: channels of the pooled text that SDXL also takes; 0 without.
    """

    in_channels: int
    latent: LatentSize
    text_tokens: int
    text_channels: int
    pooled_channels: int = 0

    @property
    def shapes(self) -> dict[str, tuple[int | None, ...]]:
        """Shape of each input, in order; None for the batch."""
        shapes: dict[str, tuple[int | None, ...]] = {
            SAMPLE: (None, self.in_channels, self.latent.height, self.latent.width),
            TIMESTEP: (1,),
            TEXT: (None, self.text_tokens, self.text_channels),
        }
        if self.pooled_channels:
            shapes |= {POOLED: (None, self.pooled_channels), TIME_IDS: (None, _MICRO_CONDITIONS)}
        return shapes

    def random(self, batch: int, seed: int) -> dict[str, NDArray[Any]]:
        """Return seeded float32 values for a batch: unit normal latents and texts, one noise level."""
        random = np.random.default_rng((seed, batch))
        feeds: dict[str, NDArray[Any]] = {}
        for name, shape in self.shapes.items():
            sizes = tuple(batch if size is None else size for size in shape)
            if name == TIMESTEP:
                feeds[name] = random.integers(1, _STEPS, sizes).astype(np.float32)
            elif name == TIME_IDS:
                feeds[name] = np.tile(np.array([1024, 1024, 0, 0, 1024, 1024], dtype=np.float32), (batch, 1))
            else:
                feeds[name] = random.standard_normal(sizes, dtype=np.float32)
        return feeds
