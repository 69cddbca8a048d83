"""Rename checkpoints of Hugging Face's `transformers` to names that timm and its own conversions know.

Covers names of version 4, which version 5 still writes with `save_pretrained`, and those of its modules
(`state_dict()`). If timm converts the original release of a family (CLIP, DINOv2), names become those of that release
and timm does the rest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from tofu_export.errors import WeightsError

__all__ = ["Renamed", "places_in", "rename"]

Rules = tuple[tuple[str, str], ...]

_LAYER: Final = r"(?:model\.)?(?:encoder\.)?layers?\.(\d+)\."
_ATTENTION: Final[Rules] = (
    (rf"{_LAYER}attention\.(?:output\.dense|o_proj)\.", r"blocks.\1.attn.proj."),
    (rf"{_LAYER}attention\.(?:attention\.)?qkv\.", r"blocks.\1.attn.qkv."),
    (rf"{_LAYER}attention\.(?:attention\.)?(q_bias|v_bias)", r"blocks.\1.attn.\2"),
)
_PATCHES: Final = (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj.")

_VIT: Final[Rules] = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.distillation_token", "dist_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    _PATCHES,
    *_ATTENTION,
    (rf"{_LAYER}(?:intermediate\.dense|mlp\.fc1)\.", r"blocks.\1.mlp.fc1."),
    (rf"{_LAYER}(?:output\.dense|mlp\.fc2)\.", r"blocks.\1.mlp.fc2."),
    (rf"{_LAYER}layernorm_before\.", r"blocks.\1.norm1."),
    (rf"{_LAYER}layernorm_after\.", r"blocks.\1.norm2."),
    (r"layernorm\.", "norm."),
    (r"(?:cls_)?classifier\.", "head."),
    (r"distillation_classifier\.", "head_dist."),
)
_BEIT: Final[Rules] = (
    (rf"{_LAYER}lambda_(\d)", r"blocks.\1.gamma_\2"),
    (rf"{_LAYER}(?:attention\.)*relative_position_bias\.", r"blocks.\1.attn."),
    (r"(?:encoder\.relative_position_bias|shared_position_bias)\.", "rel_pos_bias."),
    (r"pooler\.layernorm\.", "fc_norm."),
    *_VIT,
)
_DINOV2: Final[Rules] = (
    (r"embeddings\.(cls_token|mask_token|register_tokens)", r"\1"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    _PATCHES,
    *_ATTENTION,
    (rf"{_LAYER}layer_scale(\d)\.lambda1", r"blocks.\1.ls\2.gamma"),
    (rf"{_LAYER}mlp\.weights_in\.", r"blocks.\1.mlp.w12."),
    (rf"{_LAYER}mlp\.weights_out\.", r"blocks.\1.mlp.w3."),
    (_LAYER, r"blocks.\1."),
    (r"layernorm\.", "norm."),
    (r"classifier\.", "head."),
)
_DINOV3: Final[Rules] = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.register_tokens", "reg_token"),
    (r"embeddings\.patch_embeddings\.", "patch_embed.proj."),
    *_ATTENTION,
    (rf"{_LAYER}layer_scale(\d)\.lambda1", r"blocks.\1.gamma_\2"),
    (rf"{_LAYER}mlp\.down_proj\.", r"blocks.\1.mlp.fc2."),
    (rf"{_LAYER}mlp\.gate_proj\.", r"blocks.\1.mlp.fc1_g."),
    (rf"{_LAYER}mlp\.up_proj\.", r"blocks.\1.mlp.fc1."),
    (_LAYER, r"blocks.\1."),
    (r"classifier\.", "head."),
)
_GATED: Final = (rf"{_LAYER}mlp\.up_proj\.", r"blocks.\1.mlp.fc1_x.")
"""Renaming of DINOv3's second projection if the MLP is gated."""
_CLIP: Final[Rules] = (
    (r"embeddings\.class_embedding", "visual.class_embedding"),
    (r"embeddings\.patch_embedding\.", "visual.conv1."),
    (r"embeddings\.position_embedding\.weight", "visual.positional_embedding"),
    (r"pre_layrnorm\.", "visual.ln_pre."),  # upstream's spelling
    (r"post_layernorm\.", "visual.ln_post."),
    (r"encoder\.layers\.(\d+)\.self_attn\.qkv\.", r"visual.transformer.resblocks.\1.attn.in_proj_"),
    (r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.", r"visual.transformer.resblocks.\1.attn.out_proj."),
    (r"encoder\.layers\.(\d+)\.layer_norm(\d)\.", r"visual.transformer.resblocks.\1.ln_\2."),
    (r"encoder\.layers\.(\d+)\.mlp\.fc1\.", r"visual.transformer.resblocks.\1.mlp.c_fc."),
    (r"encoder\.layers\.(\d+)\.mlp\.fc2\.", r"visual.transformer.resblocks.\1.mlp.c_proj."),
    (r"visual_projection\.weight", "visual.proj"),
    (r"classifier\.", "visual.head."),
)
_SIGLIP: Final[Rules] = (
    (r"embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"embeddings\.position_embedding\.weight", "pos_embed"),
    (r"encoder\.layers\.(\d+)\.self_attn\.qkv\.", r"blocks.\1.attn.qkv."),
    (r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.", r"blocks.\1.attn.proj."),
    (r"encoder\.layers\.(\d+)\.layer_norm(\d)\.", r"blocks.\1.norm\2."),
    (r"encoder\.layers\.(\d+)\.mlp\.", r"blocks.\1.mlp."),
    (r"post_layernorm\.", "norm."),
    (r"head\.probe", "attn_pool.latent"),
    (r"head\.attention\.(q|kv)\.", r"attn_pool.\1."),
    (r"head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"head\.layernorm\.", "attn_pool.norm."),
    (r"head\.mlp\.", "attn_pool.mlp."),
    (r"classifier\.", "head."),
)

_BEIT_ONLY: Final = re.compile(r"\.lambda_1$|relative_position_bias|^shared_position_bias|^pooler\.layernorm")

_JOINED: Final = re.compile(r"(.*\.)(query|key|value|q_proj|k_proj|v_proj)\.(weight|bias)")
_ORDER: Final = (("query", "key", "value"), ("q_proj", "k_proj", "v_proj"))

_NO_PART: Final = re.compile(r"(.*\.)?(position_ids|relative_position_index)$")
"""Index tables that both libraries compute."""

_MASK: Final = "embeddings.mask_token"
"""Token that stands for hidden patches in pretraining."""


_BESIDE_A_CLASSIFIER: Final[Mapping[str, tuple[str, ...]]] = {"siglip": ("head.",), "clip": ("post_layernorm.",)}
"""Tensors that image classifiers of a family have but do not read: they average the tokens that leave the encoder.

Source: transformers 5.24, `SiglipForImageClassification`, `CLIPForImageClassification`.
"""


@dataclass(frozen=True)
class Renamed:
    """State dict under names that timm's conversions know.

    Attributes:
        family: vit, beit, dinov2, dinov3, clip or siglip.
        tensors: tensors by their new names.
        unused: names in the file of tensors that do not affect the output.
    """

    family: str
    tensors: dict[str, Tensor]
    unused: tuple[str, ...]


def rename(tower: Mapping[str, Tensor]) -> Renamed | None:
    """Rename the state dict of a vision model of `transformers`; None for another model.

    Queries, keys and values are joined to one projection. A tensor without a rule keeps its name, and the
    comparison with the model reports it.

    Raises:
        WeightsError: a linear patch embedding is not of square patches of three channels.
    """
    family, rules = _family(tower)
    if not family:
        return None
    unused = [name for name in tower if _NO_PART.match(name)]
    if family != "dinov2" and _MASK in tower:  # timm recognises a release of DINOv2 by its mask token
        unused.append(_MASK)
    kept = {name: tensor for name, tensor in tower.items() if name not in unused}
    if any(name.startswith("classifier.") for name in kept):
        unused += [name for name in kept if name.startswith(_BESIDE_A_CLASSIFIER.get(family, ()))]
        kept = {name: tensor for name, tensor in kept.items() if name not in unused}
    tensors: dict[str, Tensor] = {}
    for name, tensor in _join(kept).items():
        new = _renamed(name, rules)
        if tensor.numel():  # no register tokens are a tensor without elements
            tensors[new] = _SHAPED.get((family, new), _as_it_is)(tensor)
    return Renamed(family, tensors, tuple(sorted(unused)))


def places_in(tower: Mapping[str, Tensor]) -> Callable[[str], tuple[str, str]]:
    """Return a function that maps names of the same tensor to the same place, for any version of `transformers`.

    Args:
        tower: state dict of the vision model; names of other libraries stay unchanged.

    Returns:
        A function from a name to its new name and, for queries, keys and values, to `q`, `k` or `v`, else empty.
    """
    _, rules = _family(tower)

    def place(name: str) -> tuple[str, str]:
        part = _JOINED.fullmatch(name)
        if part is None:
            return _renamed(name, rules), ""
        return _renamed(f"{part[1]}qkv.{part[3]}", rules), part[2][0]

    return place


def _renamed(name: str, rules: Rules) -> str:
    return next((re.sub(rule, by, name) for rule, by in rules if re.match(rule, name)), name)


def _family(tower: Mapping[str, Tensor]) -> tuple[str, Rules]:
    if "embeddings.class_embedding" in tower:
        return "clip", _CLIP
    if "embeddings.patch_embedding.weight" in tower:
        return "siglip", _SIGLIP
    if "embeddings.patch_embeddings.weight" in tower:
        gated = any(".mlp.gate_proj." in name for name in tower)
        return "dinov3", (_GATED, *_DINOV3) if gated else _DINOV3
    if "embeddings.patch_embeddings.projection.weight" not in tower:
        return "", ()
    if any(name.endswith("layer_scale1.lambda1") for name in tower):
        return "dinov2", _DINOV2
    if any(_BEIT_ONLY.search(name) for name in tower):
        return "beit", _BEIT
    return "vit", _VIT


def _join(tower: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join queries, keys and values to one tensor `qkv`; SigLIP's pooling attention to `q` and `kv`, as in timm.

    Keys without a bias beside queries and values with one stay `q_bias` and `v_bias`.
    """
    joined: dict[str, Tensor] = {}
    for name, tensor in tower.items():
        pooled = re.fullmatch(r"head\.attention\.in_proj_(weight|bias)", name)
        if pooled:
            width = len(tensor) // 3
            joined[f"head.attention.q.{pooled[1]}"] = tensor[:width]
            joined[f"head.attention.kv.{pooled[1]}"] = tensor[width:]
            continue
        part = _JOINED.fullmatch(name)
        if part is None:
            joined[name] = tensor
            continue
        kinds = next(kinds for kinds in _ORDER if part[2] in kinds)
        parts = [f"{part[1]}{kind}.{part[3]}" for kind in kinds]
        if all(other in tower for other in parts):
            if name == parts[0]:
                joined[f"{part[1]}qkv.{part[3]}"] = torch.cat([tower[other] for other in parts])
        elif part[3] == "bias" and parts[1] not in tower and parts[0] in tower and parts[2] in tower:
            joined[f"{part[1]}{part[2][0]}_bias"] = tensor
        else:
            joined[name] = tensor
    return joined


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _patches_as_a_convolution(weight: Tensor) -> Tensor:
    """Convert SigLIP 2's linear embedding [O, P*P*3] of patches, channels last, to a convolution [O, 3, P, P].

    Raises:
        WeightsError: the patches are not square with three channels.
    """
    if weight.ndim == 4:
        return weight
    side = math.isqrt(weight.shape[-1] // 3)
    if weight.ndim != 2 or side * side * 3 != weight.shape[1]:
        raise WeightsError(
            f"the patch embedding has shape {list(weight.shape)}, expected [channels, patch * patch * 3] of SigLIP 2"
        )
    return weight.reshape(len(weight), side, side, 3).permute(0, 3, 1, 2).contiguous()


_SHAPED: Final[Mapping[tuple[str, str], Callable[[Tensor], Tensor]]] = {
    ("clip", "visual.proj"): lambda weight: weight.T,
    ("siglip", "pos_embed"): lambda table: table.unsqueeze(0),
    ("siglip", "patch_embed.proj.weight"): _patches_as_a_convolution,
}
"""Conversions of tensors that the original releases shape differently from `transformers`."""
