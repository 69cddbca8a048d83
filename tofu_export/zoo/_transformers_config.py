"""Read `config.json` of Hugging Face's `transformers` as a description of the model.

A configuration omits values that equal the library's defaults (before version 5 always in nested ones), so the
defaults are listed here, by `model_type`; a test compares them with the installed library.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tofu_export.errors import WeightsError
from tofu_export.zoo._description import BOTH_TOKENS, Description
from tofu_export.zoo._json import read_object

__all__ = ["CONFIG", "DEFAULTS", "describe_config", "describe_family", "is_transformers"]

CONFIG: Final = "config.json"
"""File beside a checkpoint with what its tensors do not show: activation, epsilon and number of heads."""

_COMMON: Final = {
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "hidden_size": 768,
    "hidden_act": "gelu",
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
}
_VIT: Final = {**_COMMON, "intermediate_size": 3072, "layer_norm_eps": 1e-12, "qkv_bias": True}
_DINOV2: Final = {**_COMMON, "mlp_ratio": 4, "layer_norm_eps": 1e-6, "qkv_bias": True, "use_swiglu_ffn": False}
_SIGLIP: Final = {
    **_COMMON,
    "intermediate_size": 3072,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "vision_use_head": True,
}

DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "vit": _VIT,
    "deit": _VIT,
    "ijepa": _VIT,
    "vit_mae": _VIT,
    "vit_msn": {**_VIT, "layer_norm_eps": 1e-6},
    "beit": {
        **_COMMON,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-12,
        "use_mean_pooling": True,
    },
    "dinov2": {**_DINOV2, "patch_size": 14},
    "dinov2_with_registers": {**_DINOV2, "num_register_tokens": 4},
    "dinov3_vit": {
        **_COMMON,
        "num_attention_heads": 6,
        "hidden_size": 384,
        "intermediate_size": 1536,
        "layer_norm_eps": 1e-5,
        "rope_theta": 100.0,
        "use_gated_mlp": False,
        "num_register_tokens": 0,
    },
    "clip_vision_model": {
        **_COMMON,
        "intermediate_size": 3072,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "patch_size": 32,
    },
    "siglip_vision_model": _SIGLIP,
    "siglip2_vision_model": {name: value for name, value in _SIGLIP.items() if name != "image_size"},
}
"""Defaults of the configuration classes of transformers 5.24."""

# Early files of CLIP say `vision_config_dict` as well. That library then takes it, defaults included, in place of
# `vision_config` (transformers 5.24, `CLIPConfig.__post_init__`).
_TOWERS: Final = {"clip": "clip_vision_model", "siglip": "siglip_vision_model", "siglip2": "siglip2_vision_model"}
"""`model_type` of the vision part of a model with a text tower."""

_FAMILIES: Final[Mapping[str, frozenset[str]]] = {
    "vit": frozenset({"vit", "deit", "ijepa", "vit_mae", "vit_msn", "beit"}),
    "beit": frozenset({"beit"}),
    "dinov2": frozenset({"dinov2", "dinov2_with_registers"}),
    "dinov3": frozenset({"dinov3_vit"}),
    "clip": frozenset({"clip_vision_model"}),
    "siglip": frozenset({"siglip_vision_model", "siglip2_vision_model"}),
}
"""Model types whose tensors have the names of a family."""

_ACTIVATIONS: Final = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""Activations of `transformers`, with their names in timm."""


def is_transformers(folder: Path) -> bool:
    """True if the folder has a configuration of `transformers`, not of timm."""
    return _read(folder / CONFIG) is not None


def describe_family(family: str, *, classifier: bool, class_token: bool, distilled: bool = False) -> Description:
    """Describe the pooling of a family, with or without a classifier, which is only in its code.

    Args:
        family: family of the tensors (`zoo._transformers.Renamed`).
        classifier: the weights have a classifier.
        class_token: they have a class token.
        distilled: they have a classifier of the distillation token as well.

    Source: transformers 5.24, `CLIPForImageClassification`, `SiglipForImageClassification`,
    `IJepaForImageClassification`, `BeitPooler`, `DeiTForImageClassificationWithTeacher`.
    """
    if distilled:
        return Description(pooling=BOTH_TOKENS, pool_norm="before")
    if family == "clip" and classifier:
        return Description(pooling="avg", pool_norm="none")
    if family == "siglip":
        return Description(pooling="avg" if classifier else "map", pool_norm="before")
    if family == "vit" and not class_token:
        return Description(pooling="avg", pool_norm="before")
    return Description() if family == "beit" else Description(pooling="token", pool_norm="before")


def describe_config(folder: Path, family: str) -> Description | None:
    """Describe the vision model by `config.json` in the folder, defaults included; None without the file.

    Args:
        folder: folder of the checkpoint.
        family: family of its tensors (`zoo._transformers.Renamed`).

    Raises:
        WeightsError: the file cannot be read, belongs to another kind of model, or names an activation that timm
            lacks.
    """
    config = _read(folder / CONFIG)
    if config is None:
        if not (folder / CONFIG).exists():
            return None
        raise WeightsError(
            f"{folder / CONFIG} is no configuration of transformers, which is JSON with a model_type, and the weights "
            "beside it are of transformers: give the one that was saved with them, or move it away"
        )
    kind = _TOWERS.get(str(config["model_type"]), str(config["model_type"]))
    towers = (config.get(key) for key in ("vision_config_dict", "vision_config"))
    said = next((tower for tower in towers if isinstance(tower, Mapping)), config)
    if kind not in _FAMILIES[family]:
        known = ", ".join(sorted(_FAMILIES[family]))
        raise WeightsError(
            f"{folder / CONFIG} has model_type {kind}, the tensors have names of {known}: give the {CONFIG} of this "
            "checkpoint, or its weights under timm's names"
        )
    values = {**DEFAULTS[kind], **{name: value for name, value in said.items() if value is not None}}
    return _description(kind, values, folder / CONFIG)


def _description(kind: str, values: Mapping[str, Any], path: Path) -> Description:
    swiglu = bool(values.get("use_swiglu_ffn"))
    activation = _ACTIVATIONS.get(str(values["hidden_act"]))
    if activation is None and not swiglu:
        raise WeightsError(
            f"{path} has the activation {values['hidden_act']}, which is not one of {', '.join(_ACTIVATIONS)}: its "
            "numbers cannot be computed with timm's model"
        )
    pooling = {}
    if kind == "beit":
        mean = bool(values["use_mean_pooling"])
        pooling = {"pooling": "avg" if mean else "token", "pool_norm": "after" if mean else "before"}
    try:
        return Description(
            depth=int(values["num_hidden_layers"]),
            embed_dim=int(values["hidden_size"]),
            heads=int(values["num_attention_heads"]),
            mlp_width=_mlp_width(values, swiglu),
            activation="silu" if swiglu else activation,
            norm_eps=float(values["layer_norm_eps"]),
            qkv_bias=values.get("qkv_bias"),
            reg_tokens=values.get("num_register_tokens"),
            rope_theta=values.get("rope_theta"),
            image_size=_pair(values.get("image_size")),
            patch_size=_pair(values["patch_size"]),
            in_chans=int(values["num_channels"]),
            num_classes=_labels(values),
            **pooling,  # type: ignore[arg-type]  # texts
        )
    except (TypeError, ValueError, IndexError) as error:
        raise WeightsError(f"{path} has a value of another type than transformers writes ({error})") from error


def _mlp_width(values: Mapping[str, Any], swiglu: bool) -> int | None:
    if "intermediate_size" in values:
        return int(values["intermediate_size"])
    hidden = int(values["hidden_size"] * values["mlp_ratio"])
    return (int(hidden * 2 / 3) + 7) // 8 * 8 if swiglu else hidden


def _labels(values: Mapping[str, Any]) -> int | None:
    """Return the number of classes if they are named; without names there may be no classifier."""
    labels = values.get("id2label")
    return len(labels) if isinstance(labels, Mapping) and labels else None


def _pair(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    return (int(value), int(value)) if isinstance(value, int | float) else (int(value[0]), int(value[1]))


def _read(path: Path) -> Mapping[str, Any] | None:
    """Read a configuration of `transformers`; None without one."""
    config = read_object(path)
    return config if config is not None and "model_type" in config else None
