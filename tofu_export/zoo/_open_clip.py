"""Read open_clip's configuration beside a checkpoint as a description of the vision tower and its images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from timm.data.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from tofu_export.errors import OptionError, WeightsError
from tofu_export.zoo._beside import Settings, as_mapping, read_settings
from tofu_export.zoo._description import Description
from tofu_export.zoo._json import read_object
from tofu_export.zoo.preprocessing import PreprocessingOptions

__all__ = ["OPEN_CLIP", "read_open_clip"]

OPEN_CLIP: Final = "open_clip_config.json"


def read_open_clip(folder: Path) -> Settings | None:
    """Read `open_clip_config.json` in the folder of a checkpoint; None without the file.

    Raises:
        WeightsError: the file describes a vision tower or a preprocessing that timm does not have.

    Source: open_clip, `model.CLIPVisionCfg`, `model._build_vision_tower`, `transform.PreprocessCfg`.
    """
    values = read_object(folder / OPEN_CLIP)
    config = as_mapping((values or {}).get("model_cfg"))
    vision = as_mapping((config or {}).get("vision_cfg"))
    if values is None or config is None or vision is None:
        return None
    images = as_mapping(values.get("preprocess_cfg")) or {}
    try:
        prepared = PreprocessingOptions.of({
            "mean": OPENAI_CLIP_MEAN, "std": OPENAI_CLIP_STD, "interpolation": "bicubic", "crop_pct": 1.0,
            **{name: images[name] for name in ("mean", "std", "interpolation") if images.get(name)},
            "crop_mode": {"squash": "squash", "longest": "border"}.get(str(images.get("resize_mode")), "center"),
        })  # fmt: skip
    except OptionError as error:
        raise WeightsError(f"{folder / OPEN_CLIP}: {error}") from error
    if vision.get("timm_model_name"):
        named = {"model": vision["timm_model_name"], "image_size": vision.get("image_size")}
        if vision.get("timm_pool"):
            named["global_pool"] = vision["timm_pool"]
        described = read_settings(named, OPEN_CLIP).description
        return Settings(described, prepared, OPEN_CLIP)
    return Settings(_open_clip_tower(config, vision, folder / OPEN_CLIP), prepared, OPEN_CLIP)


def _open_clip_tower(config: Mapping[str, Any], vision: Mapping[str, Any], path: Path) -> Description:
    unknown = [
        name
        for name in ("attentional_pool", "input_patchnorm", "no_ln_pre", "final_ln_after_pool", "attn_pooler_queries",
                     "block_type", "qk_norm", "scaled_cosine_attn", "scale_heads", "pos_embed_type", "ls_init_value")
        if vision.get(name) not in (None, False, "learnable", "default")
        and not (name == "attn_pooler_queries" and not vision.get("attentional_pool"))
    ]  # fmt: skip
    if unknown:
        raise WeightsError(
            f"{path} has a vision tower with {', '.join(unknown)}, which timm's model of CLIP has not: its numbers "
            "cannot be computed with it"
        )
    act = as_mapping(vision.get("act_kwargs")) or {}
    norm = as_mapping(vision.get("norm_kwargs")) or {}
    tanh = "gelu_tanh" if act.get("approximate") == "tanh" else "gelu"
    width, layers = int(vision.get("width", 768)), vision.get("layers", 12)
    head_width = int(vision.get("head_width", 64))
    pool = {"tok": "token", "avg": "avg"}.get(str(vision.get("pool_type", "tok")))
    if pool is None or not isinstance(layers, int):
        raise WeightsError(f"{path} has pool_type {vision.get('pool_type')} and layers {layers}: no ViT of timm")
    pool = "avg" if vision.get("global_average_pool") else pool
    return Description(
        depth=layers,
        embed_dim=width,
        heads=width // head_width,
        mlp_width=int(width * float(vision.get("mlp_ratio", 4.0))),
        activation="quick_gelu" if config.get("quick_gelu") else tanh,
        norm_eps=float(norm.get("eps", 1e-5)),
        pooling=pool,
        pool_norm="before",
        image_size=_pair(vision.get("image_size", 224)),
        patch_size=_pair(vision.get("patch_size", 16)),
    )


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
