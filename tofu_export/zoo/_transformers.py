"""Checkpoints in the format of Hugging Face's `transformers`, renamed to what timm and its own conversions know.

ViT, DeiT, DINOv2 (with and without registers), CLIP's vision tower and SigLIP's. Where timm converts the original
release of a family (CLIP, DINOv2), names become those of that release and timm does the rest.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from tofu_export.errors import WeightsError

__all__ = ["CONFIG", "Renamed", "check_config", "is_transformers", "rename"]

CONFIG: Final = "config.json"
"""Stands beside a checkpoint and says what its tensors cannot: activation and number of heads."""

_TOWERS: Final = ("vision_model.", "vit.", "deit.", "dinov2.", "dinov2_with_registers.")
"""Attributes that the vision model hangs on in a larger one."""

_BESIDE_A_TOWER: Final = ("visual_projection.", "classifier.", "cls_classifier.", "distillation_classifier.")
"""Entries outside of the tower that belong to it."""

Rules = tuple[tuple[str, str], ...]

_BERT_LAYER: Final[Rules] = (
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"blocks.\1.attn.proj."),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.qkv\.", r"blocks.\1.attn.qkv."),
)
_VIT: Final[Rules] = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.distillation_token", "dist_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    *_BERT_LAYER,
    (r"encoder\.layer\.(\d+)\.intermediate\.dense\.", r"blocks.\1.mlp.fc1."),
    (r"encoder\.layer\.(\d+)\.output\.dense\.", r"blocks.\1.mlp.fc2."),
    (r"encoder\.layer\.(\d+)\.layernorm_before\.", r"blocks.\1.norm1."),
    (r"encoder\.layer\.(\d+)\.layernorm_after\.", r"blocks.\1.norm2."),
    (r"layernorm\.", "norm."),
    (r"(?:cls_)?classifier\.", "head."),
    (r"distillation_classifier\.", "head_dist."),
)
_DINOV2: Final[Rules] = (
    (r"embeddings\.(cls_token|mask_token|register_tokens)", r"\1"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    *_BERT_LAYER,
    (r"encoder\.layer\.(\d+)\.layer_scale(\d)\.lambda1", r"blocks.\1.ls\2.gamma"),
    (r"encoder\.layer\.(\d+)\.mlp\.weights_in\.", r"blocks.\1.mlp.w12."),
    (r"encoder\.layer\.(\d+)\.mlp\.weights_out\.", r"blocks.\1.mlp.w3."),
    (r"encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"layernorm\.", "norm."),
    (r"classifier\.", "head."),
)
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

_JOINED: Final = re.compile(r"(.*\.)(query|key|value|q_proj|k_proj|v_proj)\.(weight|bias)")
_ORDER: Final = (("query", "key", "value"), ("q_proj", "k_proj", "v_proj"))


@dataclass(frozen=True)
class Renamed:
    """A state dict under names that timm's conversions know.

    Attributes:
        family: vit, dinov2, clip or siglip.
        tensors: by their new names.
        ignored: names in the file of what timm's model has no counterpart for, a text tower as one entry.
    """

    family: str
    tensors: dict[str, Tensor]
    ignored: tuple[str, ...]


def rename(found: Mapping[str, Tensor]) -> Renamed | None:
    """Rename a state dict of `transformers`; None if it is none.

    Queries, keys and values are joined to one projection. What belongs to no rule keeps its name, for the comparison
    with the model to report.
    """
    tower, beside = _tower(found)
    family, rules = _family(tower)
    if not family:
        return None
    joined = _join(tower)
    ignored = list(beside)
    tensors: dict[str, Tensor] = {}
    for name, tensor in joined.items():
        if name.startswith("pooler.") or name == "embeddings.position_ids":
            ignored.append(name)
            continue
        new = next((re.sub(rule, by, name) for rule, by in rules if re.match(rule, name)), name)
        tensors[new] = _SHAPED.get((family, new), _as_it_is)(tensor)
    return Renamed(family, tensors, tuple(sorted(ignored)))


def check_config(path: Path, model: nn.Module, *, name: str) -> tuple[str, ...]:
    """Hold what tensors do not show, activation and heads, to `config.json` beside a checkpoint, if there is one.

    Returns:
        What differs without harm, for the record: timm gives some SigLIP models the exact GELU, `transformers` its tanh
        approximation (0.0005 apart).

    Raises:
        WeightsError: the model has another activation or another number of heads.
    """
    config = _read_config(path.parent / CONFIG)
    if config is None:
        return ()
    block = next(iter(getattr(model, "blocks", ())), None)
    heads, got = config.get("num_attention_heads"), getattr(getattr(block, "attn", None), "num_heads", None)
    if isinstance(heads, int) and isinstance(got, int) and heads != got:
        raise WeightsError(f"{path.name} is for {heads} attention heads ({CONFIG} beside it), {name} has {got}")
    activation, has = config.get("hidden_act"), getattr(getattr(block, "mlp", None), "act", None)
    known = _ACTIVATIONS.get(str(activation))
    if known is None or has is None or config.get("use_swiglu_ffn"):
        return ()
    points = torch.linspace(-4, 4, 161)
    with torch.no_grad():
        apart = float((has(points) - known(points)).abs().max())
    if apart > _SAME_ACTIVATION:
        hint = " (timm has such models as *_clip_quickgelu_*)" if activation == "quick_gelu" else ""
        raise WeightsError(
            f"{path.name} was trained with the activation {activation} ({CONFIG} beside it), {name} has another: "
            f"its numbers would be wrong. Choose the model with that activation{hint}"
        )
    return (f"activation {activation} -> {type(has).__name__}, at most {apart:.0e} apart",) if apart > 1e-6 else ()


def is_transformers(folder: Path) -> bool:
    """True if the folder has a configuration of `transformers`, and not timm's."""
    return _read_config(folder / CONFIG) is not None


def _tower(found: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The vision model by its own names, and what stands beside it without belonging to it."""
    prefix = next((prefix for prefix in _TOWERS if any(name.startswith(prefix) for name in found)), None)
    if prefix is None:
        return dict(found), []
    tower = {name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}
    rest = [name for name in found if not name.startswith(prefix)]
    tower.update({name: found[name] for name in rest if name.startswith(_BESIDE_A_TOWER)})
    others = [name for name in rest if not name.startswith(_BESIDE_A_TOWER)]
    text = [name for name in others if name.startswith("text_model.")]
    return tower, [name for name in others if name not in text] + ([f"text_model.* ({len(text)})"] if text else [])


def _family(tower: Mapping[str, Tensor]) -> tuple[str, Rules]:
    if "embeddings.class_embedding" in tower:
        return "clip", _CLIP
    if "embeddings.patch_embedding.weight" in tower:
        return "siglip", _SIGLIP
    if "embeddings.patch_embeddings.projection.weight" in tower and "embeddings.cls_token" in tower:
        scaled = any(name.endswith("layer_scale1.lambda1") for name in tower)
        return ("dinov2", _DINOV2) if scaled else ("vit", _VIT)
    return "", ()


def _join(tower: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values as one tensor `qkv`; SigLIP's pooling attention as `q` and `kv`, as timm has it."""
    joined: dict[str, Tensor] = {}
    for name, tensor in tower.items():
        pooled = re.fullmatch(r"head\.attention\.in_proj_(weight|bias)", name)
        if pooled:
            width = len(tensor) // 3
            joined[f"head.attention.q.{pooled[1]}"] = tensor[:width]
            joined[f"head.attention.kv.{pooled[1]}"] = tensor[width:]
            continue
        part = _JOINED.fullmatch(name)
        names = [kinds for kinds in _ORDER if part and part[2] in kinds]
        parts = [f"{part[1]}{kind}.{part[3]}" for kind in names[0]] if part and names else []
        if not parts or any(other not in tower for other in parts):
            joined[name] = tensor
        elif part and part[2] == names[0][0]:
            joined[f"{part[1]}qkv.{part[3]}"] = torch.cat([tower[other] for other in parts])
    return joined


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _patches_as_a_convolution(weight: Tensor) -> Tensor:
    """SigLIP 2's linear embedding [O, P*P*3] of patches, channels last, as a convolution [O, 3, P, P].

    Raises:
        WeightsError: its patches are not square ones of three channels.
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
"""What the original releases shape in another way than `transformers`."""

_ACTIVATIONS: Final[Mapping[str, Callable[[Tensor], Tensor]]] = {
    "gelu": gelu,
    "gelu_pytorch_tanh": lambda x: gelu(x, approximate="tanh"),
    "gelu_new": lambda x: gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": torch.relu,
}
"""By the names of `transformers`."""


_SAME_ACTIVATION: Final = 1e-3
"""Largest difference of two activations that weights do not notice: GELU and its tanh approximation, but not quick_gelu
(0.02)."""


def _read_config(path: Path) -> Mapping[str, Any] | None:
    """The vision part of a configuration of `transformers`; None where there is none."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(config, Mapping) or "model_type" not in config:
        return None
    vision = config.get("vision_config")
    return vision if isinstance(vision, Mapping) else config
