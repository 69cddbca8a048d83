"""Hyper-parameters of known UNets, so that their shapes can be exported and timed without any download.

Source: `unet/config.json` of Stable Diffusion 1.5, 2.1 and XL, without what only records versions.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

__all__ = ["CONFIGS", "TEXT_TOKENS"]

TEXT_TOKENS = 77
"""Number of text tokens of CLIP, which all of these UNets read."""

_CROSS_DOWN, _PLAIN_DOWN = "CrossAttnDownBlock2D", "DownBlock2D"
_CROSS_UP, _PLAIN_UP = "CrossAttnUpBlock2D", "UpBlock2D"

_SD: Mapping[str, Any] = {
    "sample_size": 64,
    "down_block_types": (_CROSS_DOWN, _CROSS_DOWN, _CROSS_DOWN, _PLAIN_DOWN),
    "up_block_types": (_PLAIN_UP, _CROSS_UP, _CROSS_UP, _CROSS_UP),
    "block_out_channels": (320, 640, 1280, 1280),
}

CONFIGS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "sd15": {**_SD, "cross_attention_dim": 768, "attention_head_dim": 8},
        "sd21": {
            **_SD,
            "sample_size": 96,
            "cross_attention_dim": 1024,
            "attention_head_dim": (5, 10, 20, 20),
            "use_linear_projection": True,
            "upcast_attention": True,
        },
        "sdxl": {
            "sample_size": 128,
            "down_block_types": (_PLAIN_DOWN, _CROSS_DOWN, _CROSS_DOWN),
            "up_block_types": (_CROSS_UP, _CROSS_UP, _PLAIN_UP),
            "block_out_channels": (320, 640, 1280),
            "transformer_layers_per_block": (1, 2, 10),
            "cross_attention_dim": 2048,
            "attention_head_dim": (5, 10, 20),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        "tiny": {
            "sample_size": 16,
            "down_block_types": (_CROSS_DOWN, _CROSS_DOWN, _PLAIN_DOWN),
            "up_block_types": (_PLAIN_UP, _CROSS_UP, _CROSS_UP),
            "block_out_channels": (16, 32, 32),
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "cross_attention_dim": 32,
            "attention_head_dim": 4,
        },
    }
)
"""Keyword arguments of diffusers' UNet2DConditionModel by name. `tiny` is no published model: it is for trials."""
