"""Weights of a ViT as Google's JAX code names and lays them out."""

from __future__ import annotations

from typing import Any

import numpy as np
import timm
from torch import Tensor, nn

State = dict[str, Tensor]


def make(name: str = "test_vit", **options: Any) -> nn.Module:
    model: nn.Module = timm.create_model(name, pretrained=False, **options)
    return model.eval()


def jax_arrays(state: State, depth: int = 6, heads: int = 2) -> dict[str, np.ndarray]:
    """`state` as Google's ViT checkpoints name and lay out their arrays."""
    plain = {name: tensor.numpy() for name, tensor in state.items()}
    width = plain["norm.weight"].size
    arrays = {
        "embedding/kernel": plain["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": plain["patch_embed.proj.bias"],
        "cls": plain["cls_token"],
        "Transformer/posembed_input/pos_embedding": plain["pos_embed"],
        "Transformer/encoder_norm/scale": plain["norm.weight"],
        "Transformer/encoder_norm/bias": plain["norm.bias"],
        "head/kernel": plain["head.weight"].T,
        "head/bias": plain["head.bias"],
    }
    for index in range(depth):
        block, there = f"blocks.{index}.", f"Transformer/encoderblock_{index}/"
        attention = f"{there}MultiHeadDotProductAttention_1/"
        for norm, layer in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            arrays[f"{there}{layer}/scale"] = plain[f"{block}{norm}.weight"]
            arrays[f"{there}{layer}/bias"] = plain[f"{block}{norm}.bias"]
        weights, biases = plain[f"{block}attn.qkv.weight"], plain[f"{block}attn.qkv.bias"]
        for part, name in enumerate(("query", "key", "value")):
            rows = slice(part * width, (part + 1) * width)
            arrays[f"{attention}{name}/kernel"] = weights[rows].T.reshape(width, heads, -1)
            arrays[f"{attention}{name}/bias"] = biases[rows].reshape(heads, -1)
        arrays[f"{attention}out/kernel"] = plain[f"{block}attn.proj.weight"].T.reshape(heads, -1, width)
        arrays[f"{attention}out/bias"] = plain[f"{block}attn.proj.bias"]
        for part in range(2):
            arrays[f"{there}MlpBlock_3/Dense_{part}/kernel"] = plain[f"{block}mlp.fc{part + 1}.weight"].T
            arrays[f"{there}MlpBlock_3/Dense_{part}/bias"] = plain[f"{block}mlp.fc{part + 1}.bias"]
    return arrays
