"""Read descriptions of a model and its images, beside or inside a checkpoint of timm, Lightning or open_clip."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import timm
import torch
import yaml

from tofu_export.errors import OptionError, WeightsError
from tofu_export.zoo._description import Description, describe_model, merge
from tofu_export.zoo._quiet import quiet
from tofu_export.zoo.preprocessing import PreprocessingOptions

__all__ = ["OPEN_CLIP", "Settings", "read_open_clip", "read_timm_args", "read_timm_config", "settings_inside"]

OPEN_CLIP: Final = "open_clip_config.json"
_TIMM: Final = "config.json"
_TIMM_ARGS: Final = "args.yaml"
"""File that timm's training script writes to the folder of its checkpoints."""

_INSIDE: Final = ("args", "hyper_parameters", "hparams", "config", "cfg")
"""Entries of a checkpoint that training scripts keep their options under; the second is Lightning's."""

_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "model": ("model", "model_name", "arch", "architecture", "backbone", "timm_model", "model_arch", "encoder_name"),
    "global_pool": ("gp", "global_pool"),
    "num_classes": ("num_classes", "nb_classes", "n_classes", "num_labels"),
    "image_size": ("img_size", "image_size", "input_size"),
    "in_chans": ("in_chans", "in_channels", "num_channels"),
}
"""Names of a setting in scripts, timm's own names first."""

_OPENAI_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
_OPENAI_STD: Final = (0.26862954, 0.26130258, 0.27577711)
"""Default of open_clip. Source: open_clip, `constants`."""


@dataclass(frozen=True)
class Settings:
    """Description of a model from one place.

    Attributes:
        description: description of the model.
        preprocessing: preprocessing of its images.
        where: the place, for messages.
    """

    description: Description
    preprocessing: PreprocessingOptions
    where: str


def settings_inside(found: Mapping[Any, Any], *, file: str) -> Settings | None:
    """Return options that a training script stored beside its weights: timm's `args`, Lightning's hyper-parameters.

    Args:
        found: content of the checkpoint.
        file: name of the checkpoint.

    Raises:
        WeightsError: an option is impossible for a model or image.
    """
    for name in _INSIDE:
        values = _mapping(found.get(name))
        if values is not None:
            return _settings(values, f"{name} in {file}")
    return _settings({"model": found["arch"]}, f"arch in {file}") if isinstance(found.get("arch"), str) else None


def read_timm_args(folder: Path) -> Settings | None:
    """Read the options in timm's `args.yaml` in the folder of a checkpoint; None without the file.

    Raises:
        WeightsError: an option is impossible for a model or image.
    """
    try:
        values = yaml.safe_load((folder / _TIMM_ARGS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None
    return _settings(values, _TIMM_ARGS) if isinstance(values, Mapping) else None


def read_timm_config(folder: Path) -> Settings | None:
    """Read timm's `config.json` in the folder of a checkpoint; None without the file.

    Raises:
        WeightsError: an entry is impossible for a model or image, or names an architecture that timm does not have.
    """
    values = _read(folder / _TIMM)
    if values is None or not isinstance(values.get("architecture"), str):
        return None
    if not _is_known(values["architecture"]):
        raise WeightsError(
            f"{folder / _TIMM} says that the architecture is {values['architecture']}, which the installed timm "
            f"({timm.__version__}) does not have: update timm, or move the weights away from this file"
        )
    arguments = _mapping(values.get("model_args")) or {}
    merge(_sizes(values), _sizes(arguments), names=(str(folder / _TIMM), "model_args in it"))
    images = _mapping(values.get("pretrained_cfg")) or {}
    merged = {**values, **{name: images[name] for name in ("mean", "std", "interpolation", "crop_pct", "crop_mode")
                           if name in images}}  # fmt: skip
    return _settings({**merged, "model_kwargs": arguments}, _TIMM)


def read_open_clip(folder: Path) -> Settings | None:
    """Read `open_clip_config.json` in the folder of a checkpoint; None without the file.

    Raises:
        WeightsError: the file describes a vision tower or a preprocessing that timm does not have.

    Source: open_clip, `model.CLIPVisionCfg`, `model._build_vision_tower`, `transform.PreprocessCfg`.
    """
    values = _read(folder / OPEN_CLIP)
    config = _mapping((values or {}).get("model_cfg"))
    vision = _mapping((config or {}).get("vision_cfg"))
    if values is None or config is None or vision is None:
        return None
    images = _mapping(values.get("preprocess_cfg")) or {}
    try:
        prepared = PreprocessingOptions.of({
            "mean": _OPENAI_MEAN, "std": _OPENAI_STD, "interpolation": "bicubic", "crop_pct": 1.0,
            **{name: images[name] for name in ("mean", "std", "interpolation") if images.get(name)},
            "crop_mode": {"squash": "squash", "longest": "border"}.get(str(images.get("resize_mode")), "center"),
        })  # fmt: skip
    except OptionError as error:
        raise WeightsError(f"{folder / OPEN_CLIP}: {error}") from error
    if vision.get("timm_model_name"):
        named = {"model": vision["timm_model_name"], "image_size": vision.get("image_size")}
        if vision.get("timm_pool"):
            named["global_pool"] = vision["timm_pool"]
        described = _settings(named, OPEN_CLIP).description
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
    act = _mapping(vision.get("act_kwargs")) or {}
    norm = _mapping(vision.get("norm_kwargs")) or {}
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


def _settings(values: Mapping[str, Any], where: str) -> Settings:
    """Return the settings in a mapping of options, with those of the architecture that it names."""
    nested = _mapping(values.get("model")) or _mapping(values.get("model_cfg")) or {}
    flat = {**nested, **{key: value for key, value in values.items() if not isinstance(value, Mapping)}}
    if isinstance(nested.get("name"), str) and not isinstance(flat.get("model"), str):
        flat["model"] = nested["name"]
    arguments = {**(_mapping(values.get("model_kwargs")) or {}), **(_mapping(values.get("model_args")) or {})}
    said = replace(_sizes(arguments), **dict(_sizes(flat).said()))
    if said.pooling is not None:
        arguments["global_pool"] = said.pooling
    try:
        preprocessing = PreprocessingOptions.of(flat)
        described = _of_architecture(_first(flat, "model"), arguments, where)
    except OptionError as error:
        raise WeightsError(f"{where}: {error}") from error
    return Settings(replace(described, **dict(said.said())), preprocessing, where)


def _sizes(values: Mapping[str, Any]) -> Description:
    """Return the options that are also arguments of `timm.create_model`."""
    pool, classes = _first(values, "global_pool"), _first(values, "num_classes")
    if isinstance(pool, bool):  # MAE's: the mean of the patch tokens, or else the class token
        pool = "avg" if pool else "token"
    return Description(
        pooling=pool if isinstance(pool, str) else None,
        num_classes=0 if classes == 0 and not isinstance(classes, bool) else _number(classes),
        in_chans=_number(_first(values, "in_chans")),
        image_size=_size(_first(values, "image_size")),
    )


def _of_architecture(name: Any, arguments: Mapping[str, Any], where: str) -> Description:
    """Describe a timm architecture with some options. Sizes are left out: options or tensors give them.

    Raises:
        WeightsError: timm cannot build it with these options.
    """
    if not isinstance(name, str) or not _is_known(name):
        return Description()
    try:
        with quiet(), torch.device("meta"):
            model = timm.create_model(name.removeprefix("timm/"), pretrained=False, **arguments)
    except Exception as error:  # options of another model or version may raise anything
        options = ", ".join(f"{option} {value}" for option, value in arguments.items())
        raise WeightsError(
            f"{where} says that the model is {name} with {options or 'no options'}, which timm cannot build "
            f"({type(error).__name__}: {error}): correct it, or give the state dict alone and name the model"
        ) from error
    return replace(describe_model(model), num_classes=None, in_chans=None, image_size=None, patch_size=None)


def _is_known(name: str) -> bool:
    """True for an architecture of the installed timm, with or without a tag and `timm/`."""
    return timm.is_model(name.partition(".")[0].removeprefix("timm/"))


def _first(values: Mapping[str, Any], setting: str) -> Any:
    return next((values[name] for name in _NAMES[setting] if values.get(name) not in (None, "")), None)


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _size(value: Any) -> tuple[int, int] | None:
    """Read height and width from a number, a pair, or timm's (channels, height, width)."""
    if isinstance(value, list | tuple) and len(value) in (2, 3) and all(isinstance(side, int) for side in value):
        return int(value[-2]), int(value[-1])
    number = _number(value)
    return None if number is None else (number, number)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _mapping(value: Any) -> Mapping[str, Any] | None:
    if isinstance(value, argparse.Namespace):
        return vars(value)
    return value if isinstance(value, Mapping) else None


def _read(path: Path) -> Mapping[str, Any] | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return values if isinstance(values, Mapping) else None
