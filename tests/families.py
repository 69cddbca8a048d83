"""Small models, one for each kind of block and of position that timm's plain vision transformers have.

All take images of 32x32 pixels, cut into 4x4 patches, and have 3 blocks; every weight is random and matters, layer
scales and tables of relative positions included. `tests.tiny` has the variants of the plain pre-norm transformer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import torch
from timm.models.beit import Beit
from timm.models.cait import Cait
from timm.models.eva import Eva
from timm.models.naflexvit import NaFlexVit
from timm.models.vision_transformer import (
    DiffParallelScalingBlock,
    ParallelScalingBlock,
    ParallelThingsBlock,
    ResPostBlock,
    VisionTransformer,
)
from timm.models.vision_transformer_relpos import ResPostRelPosBlock, VisionTransformerRelPos
from torch import nn

from tests.tiny import CLASSES, DEPTH, PATCH, SIDE
from tofu_export import patch
from tofu_export.options import Reduction
from tofu_export.patch.describe import describe
from tofu_export.planning.plan import ModelSpec, make_plan

__all__ = ["FAMILIES", "Family", "build", "reduced", "spec"]

_COMMON: dict[str, Any] = {
    "img_size": SIDE,
    "patch_size": PATCH,
    "embed_dim": 32,
    "depth": DEPTH,
    "num_heads": 4,
    "mlp_ratio": 2,
    "num_classes": CLASSES,
}
_ROPE = {"use_rot_pos_emb": True, "use_abs_pos_emb": False}


class Family(NamedTuple):
    """One model: how it is made, its prefix in the blocks, and whether positions travel with its tokens."""

    kind: Callable[..., nn.Module]
    kwargs: Mapping[str, Any]
    prefix: int
    placed: bool = False


FAMILIES: dict[str, Family] = {
    "post-norm": Family(VisionTransformer, {"block_fn": ResPostBlock, "init_values": 0.5, "qk_norm": True}, 1),
    "parallel": Family(VisionTransformer, {"block_fn": ParallelThingsBlock, "init_values": 0.5}, 1),
    "scaling": Family(
        VisionTransformer, {"block_fn": ParallelScalingBlock, "qk_norm": True, "pre_norm": True, "init_values": 0.5}, 1
    ),
    "diff-scaling": Family(
        VisionTransformer,
        {"block_fn": DiffParallelScalingBlock, "reg_tokens": 1, "class_token": False, "global_pool": "avg"},
        1,
    ),
    "diff": Family(VisionTransformer, {"attn_layer": "diff", "init_values": 0.5, "qk_norm": True}, 1),
    "eva": Family(Eva, {"init_values": 0.5, "qkv_fused": False}, 1),
    "eva-rope-cat": Family(
        Eva,
        {**_ROPE, "use_abs_pos_emb": True, "swiglu_mlp": True, "scale_mlp": True, "scale_attn_inner": True},
        1,
        True,
    ),
    "eva-rope-mixed": Family(
        Eva, {**_ROPE, "rope_type": "mixed", "attn_type": "rope", "num_reg_tokens": 2, "init_values": 0.5}, 3, True
    ),
    "dinov3": Family(
        Eva,
        {
            **_ROPE,
            "rope_type": "dinov3",
            "num_reg_tokens": 4,
            "init_values": 0.5,
            "rope_rotate_half": True,
            "qkv_bias": False,
        },
        5,
        True,
    ),
    "sapiens": Family(
        Eva,
        {
            **_ROPE,
            "rope_type": "dinov3",
            "attn_type": "rope",
            "qkv_fused": False,
            "qk_norm": True,
            "num_kv_heads": 2,
            "init_values": 0.5,
            "attn_only_layer_scale": True,
        },
        1,
        True,
    ),
    "pe": Family(
        Eva,
        {**_ROPE, "use_abs_pos_emb": True, "attn_type": "rope", "class_token": False, "global_pool": "map"},
        0,
        True,
    ),
    "eva-post-norm": Family(Eva, {"use_post_norm": True}, 1),
    "beit": Family(
        Beit, {"use_abs_pos_emb": False, "use_rel_pos_bias": True, "init_values": 0.5, "qkv_bias": True}, 1, True
    ),
    "beit-shared": Family(
        Beit,
        {"use_rel_pos_bias": True, "use_shared_rel_pos_bias": True, "swiglu_mlp": True, "scale_mlp": True},
        1,
        True,
    ),
    "relpos-mlp": Family(
        VisionTransformerRelPos, {"rel_pos_type": "mlp", "init_values": 0.5, "qk_norm": True}, 0, True
    ),
    "relpos-table": Family(
        VisionTransformerRelPos,
        {"rel_pos_type": "bias", "class_token": True, "global_pool": "token", "init_values": 0.5},
        1,
        True,
    ),
    "relpos-shared": Family(VisionTransformerRelPos, {"shared_rel_pos": True, "class_token": True}, 1, True),
    "relpos-post-norm": Family(
        VisionTransformerRelPos, {"block_fn": ResPostRelPosBlock, "rel_pos_type": "mlp_swin"}, 0, True
    ),
    "cait": Family(Cait, {"init_values": 0.5}, 0),
    "naflex": Family(NaFlexVit, {"class_token": True, "global_pool": "token", "reg_tokens": 2, "init_values": 0.5}, 3),
    "naflex-rope": Family(
        NaFlexVit, {"rope_type": "axial", "pos_embed": "none", "reg_tokens": 1, "global_pool": "avg"}, 1, True
    ),
}


def build(name: str) -> nn.Module:
    """A model in float32, evaluation mode, in which every weight matters."""
    family = FAMILIES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = family.kind(**{**_COMMON, **family.kwargs}).eval().requires_grad_(False)
        for weight_name, weight in model.named_parameters():
            if "gamma" in weight_name or (weight_name.endswith("weight") and weight.ndim == 1):
                weight.copy_(1.0 + 0.3 * torch.randn_like(weight))
            elif weight.ndim <= 1:
                weight.copy_(0.3 * torch.randn_like(weight))
            elif any(part in weight_name for part in ("token", "pos_embed", "latent", "bias_table")):
                weight.copy_(torch.randn_like(weight))
            elif weight.ndim == 2 or weight.ndim == 4:
                weight.copy_(torch.randn_like(weight) * (1.5 / math.sqrt(weight[0].numel())))
    return model


@cache
def spec(name: str) -> ModelSpec:
    """What a plan needs to know about a model."""
    family = FAMILIES[name]
    with torch.device("meta"):
        model = family.kind(**{**_COMMON, **family.kwargs}).eval()
    return describe(model, name, (SIDE, SIDE))


def reduced(name: str, reduction: Reduction) -> nn.Module:
    """A model that carries a plan."""
    return patch.apply(build(name), make_plan(spec(name), reduction))
