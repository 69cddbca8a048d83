"""Read descriptions of a model and its images, beside or inside a checkpoint of timm or Lightning."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import timm
import torch
import yaml
from torch import nn

from tofu_export.errors import OptionError, WeightsError
from tofu_export.zoo._convert import architecture_of
from tofu_export.zoo._description import Description, describe_model, merge
from tofu_export.zoo._json import read_object
from tofu_export.zoo._quiet import quiet
from tofu_export.zoo.preprocessing import PreprocessingOptions, for_channels

__all__ = ["Settings", "as_mapping", "read_settings", "read_timm_args", "read_timm_config", "settings_inside"]

_TIMM: Final = "config.json"
_TIMM_ARGS: Final = "args.yaml"
"""File that timm's training script writes to the folder of its checkpoints."""

_INSIDE: Final = ("args", "hyper_parameters", "hparams", "config", "cfg")
"""Entries of a checkpoint that training scripts keep their options under; the second is Lightning's."""

_HUB: Final = re.compile(r"^(hf[-_]hub:)?timm/")
"""What stands before an architecture and its tag in the name of timm's own repositories."""

_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "model": ("model", "model_name", "arch", "architecture", "backbone", "timm_model", "model_arch", "encoder_name"),
    "global_pool": ("gp", "global_pool"),
    "num_classes": ("num_classes", "nb_classes", "n_classes", "num_labels"),
    "image_size": ("img_size", "image_size", "input_size"),
    "in_chans": ("in_chans", "in_channels", "num_channels"),
}
"""Names of a setting in scripts, timm's own names first."""


@dataclass(frozen=True)
class Settings:
    """Description of a model from one place.

    Attributes:
        description: description of the model.
        preprocessing: preprocessing of its images.
        where: the place, for messages.
        architecture: its name in timm, without tag; empty if not named.
        arguments: arguments of `timm.create_model` that it was built with.
    """

    description: Description
    preprocessing: PreprocessingOptions
    where: str
    architecture: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)


def settings_inside(found: Mapping[Any, Any], *, file: str) -> Settings | None:
    """Return options that a training script stored beside its weights: timm's `args`, Lightning's hyper-parameters.

    Args:
        found: content of the checkpoint.
        file: name of the checkpoint.

    Raises:
        WeightsError: an option is impossible for a model or image.
    """
    for name in _INSIDE:
        values = as_mapping(found.get(name))
        if values is not None:
            return read_settings(values, f"{name} in {file}", of_script=True)
    return read_settings({"model": found["arch"]}, f"arch in {file}") if isinstance(found.get("arch"), str) else None


def read_timm_args(folder: Path) -> Settings | None:
    """Read the options in timm's `args.yaml` in the folder of a checkpoint; None without the file.

    Raises:
        WeightsError: an option is impossible for a model or image.
    """
    try:
        values = yaml.safe_load((folder / _TIMM_ARGS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None
    return read_settings(values, _TIMM_ARGS, of_script=True) if isinstance(values, Mapping) else None


def read_timm_config(folder: Path) -> Settings | None:
    """Read timm's `config.json` in the folder of a checkpoint; None without the file.

    Raises:
        WeightsError: an entry is impossible for a model or image, or names an architecture that timm does not have.
    """
    values = read_object(folder / _TIMM)
    if values is None or not isinstance(values.get("architecture"), str):
        return None
    if not _is_known(values["architecture"]):
        raise WeightsError(
            f"{folder / _TIMM} says that the architecture is {values['architecture']}, which the installed timm "
            f"({timm.__version__}) does not have: update timm, or move the weights away from this file"
        )
    arguments = as_mapping(values.get("model_args")) or {}
    merge(_sizes(values), _sizes(arguments), names=(str(folder / _TIMM), "model_args in it"))
    images = as_mapping(values.get("pretrained_cfg")) or {}
    merged = {**values, **{name: images[name] for name in ("mean", "std", "interpolation", "crop_pct", "crop_mode")
                           if name in images}}  # fmt: skip
    return read_settings({**merged, "model_kwargs": arguments}, _TIMM)


def read_settings(values: Mapping[str, Any], where: str, *, of_script: bool = False) -> Settings:
    """Return the settings in a mapping of options, with those of the architecture that it names.

    Args:
        values: options by name.
        where: the place, for messages.
        of_script: they are options of a training script, which prepares images as its model's if they have mean and
            std, and those are empty, as in timm's.

    Raises:
        WeightsError: an option is impossible for a model or image.
    """
    nested = as_mapping(values.get("model")) or as_mapping(values.get("model_cfg")) or {}
    flat = {**nested, **{key: value for key, value in values.items() if not isinstance(value, Mapping)}}
    if isinstance(nested.get("name"), str) and not isinstance(flat.get("model"), str):
        flat["model"] = nested["name"]
    if of_script:  # where a number of that name can be anything, for example of random weights
        flat = {key: value for key, value in flat.items() if key not in ("mean", "std") or not isinstance(value, float)}
    arguments = {**(as_mapping(values.get("model_kwargs")) or {}), **(as_mapping(values.get("model_args")) or {})}
    said = replace(_sizes(arguments), **dict(_sizes(flat).said()))
    if said.pooling is not None:
        arguments["global_pool"] = said.pooling
    try:
        images = PreprocessingOptions.of(flat)
    except OptionError as error:
        raise WeightsError(f"{where}: {error}") from error
    name = _first(flat, "model")
    if not isinstance(name, str) or not _is_known(name):
        return Settings(said, images, where)
    model = _built(name, arguments, where)
    described = replace(describe_model(model), num_classes=None, in_chans=None, image_size=None, patch_size=None)
    if of_script and {"mean", "std"} <= flat.keys():
        images = images.over(_images_of(model, said.in_chans))
    others = replace(said, pooling=None)  # which the model was built with
    return Settings(replace(described, **dict(others.said())), images, where, architecture_of(model), arguments)


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


def _built(name: str, arguments: Mapping[str, Any], where: str) -> nn.Module:
    """Build a timm architecture with some options, on the meta device.

    Raises:
        WeightsError: timm cannot build it with these options.
    """
    try:
        with quiet(), torch.device("meta"):
            return timm.create_model(_HUB.sub("", name), pretrained=False, **arguments)
    except Exception as error:  # options of another model or version may raise anything
        options = ", ".join(f"{option} {value}" for option, value in arguments.items())
        raise WeightsError(
            f"{where} says that the model is {name} with {options or 'no options'}, which timm cannot build "
            f"({type(error).__name__}: {error}): correct it, or give the state dict alone and name the model"
        ) from error


def _images_of(model: nn.Module, channels: int | None) -> PreprocessingOptions:
    """Return how timm's scripts prepare images for a model by default, which its pretrained tag decides."""
    config = dict(getattr(model, "pretrained_cfg", {}))
    if channels is not None:
        config |= {name: for_channels(config[name], channels) for name in ("mean", "std") if name in config}
    return PreprocessingOptions.of(config)


def _is_known(name: str) -> bool:
    """True for an architecture of the installed timm, with or without a tag and `timm/`."""
    return timm.is_model(_HUB.sub("", name).partition(".")[0])


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


def as_mapping(value: Any) -> Mapping[str, Any] | None:
    """Return a mapping or a Namespace as a mapping; None for another value."""
    if isinstance(value, argparse.Namespace):
        return vars(value)
    return value if isinstance(value, Mapping) else None
