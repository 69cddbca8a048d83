"""Whole pipelines with random weights, in folders as diffusers saves them, and their UNets, exported."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tests.cli.running import run
from tests.diffusion import tiny_unet
from tofu_export.diffusion.models import UnetSource, create_unet

TOKENS = 8
"""Length of a text."""
WIDTH = 16
"""Channels of a text encoder."""
LATENT = 8
PIXELS = 16
"""Its decoder doubles the latent once."""

XL: dict[str, Any] = {
    **tiny_unet.SMALL,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2),
    "attention_head_dim": (2, 4),
    "use_linear_projection": True,
    "cross_attention_dim": 2 * WIDTH,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + WIDTH,
}
"""As Stable Diffusion XL: no transformer block at the latent's own resolution, then two in a row."""


@cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    """Goes with the process."""
    return tempfile.TemporaryDirectory(prefix="tofu-export-tests-")


@cache
def folder(*, xl: bool = False) -> Path:
    """The pipeline on the disk."""
    path = Path(_scratch().name) / ("xl" if xl else "sd")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        vae = AutoencoderKL(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=4,
        )
        config = CLIPTextConfig(
            vocab_size=514, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=TOKENS, projection_dim=WIDTH, bos_token_id=512, eos_token_id=513, pad_token_id=513,
        )  # fmt: skip
        text, tokens = CLIPTextModel(config), tokenizer(path.parent / "tokenizer")
        unet: Any = create_unet(UnetSource("unet", XL if xl else tiny_unet.SMALL, None), seed=3)
        if xl:
            pipeline: Any = StableDiffusionXLPipeline(
                vae, text, CLIPTextModelWithProjection(config), tokens, tokens, unet, DDIMScheduler(clip_sample=False)
            )
        else:
            scheduler = PNDMScheduler(skip_prk_steps=True, steps_offset=1)
            pipeline = StableDiffusionPipeline(
                vae, text, tokens, unet, scheduler, None, None, requires_safety_checker=False
            )
    pipeline.save_pretrained(path)
    return path


def tokenizer(place: Path) -> CLIPTokenizer:
    """One token for each byte, inside and at the end of a word; made from files, as a real one is."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = [chr(code) for code in visible] + [chr(256 + index) for index in range(256 - len(visible))]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    place.mkdir(exist_ok=True)
    (place / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (place / "merges.txt").write_text("#version: 0.2\n")
    config = {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS, "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>",
    }  # fmt: skip
    (place / "tokenizer_config.json").write_text(json.dumps(config))
    return CLIPTokenizer.from_pretrained(place)


@cache
def unet_file(*options: str, xl: bool = False) -> Path:
    """The pipeline's UNet, exported by the command line."""
    out = Path(_scratch().name) / f"{'xl' if xl else 'sd'}{'-'.join(options)}"
    shape = ("--latent-size", str(LATENT), "--text-tokens", str(TOKENS), "--precision", "fp32")
    assert run("unet", str(folder(xl=xl)), *shape, *options, "-q", "-o", str(out)) == 0
    return out / "model.onnx"


def full() -> Path:
    """The UNet of Stable Diffusion's pipeline as it is, in an ONNX file."""
    return unet_file("--ratio", "0", "--no-verify")


def reduced() -> Path:
    """The same, with half of the tokens out of three of its four self-attentions."""
    return unet_file("--no-verify")
