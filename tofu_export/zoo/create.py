"""Models ready to be patched and exported: created, filled, frozen.

Every name goes through here: timm's, our aliases, hub repositories, local folders and the demo model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data.config import resolve_model_data_config
from torch import nn

from tofu_export import demo
from tofu_export.errors import OptionError, TofuError, UnsupportedModelError, WeightsError
from tofu_export.zoo._download import hub_file
from tofu_export.zoo._quiet import quiet
from tofu_export.zoo._transformers import is_transformers
from tofu_export.zoo.names import DEMO_MODEL, resolve
from tofu_export.zoo.weights import WeightsKind, WeightsSource, load_weights, locate_pretrained

__all__ = ["LoadedModel", "create_meta", "create_model", "own_image_size"]


@dataclass(frozen=True)
class LoadedModel:
    """A model with its weights, in evaluation mode, float32, without gradients, on the CPU.

    Attributes:
        model: the untouched upstream module.
        name: what the user asked for.
        resolved: what it stands for, with the pretrained tag if one was given.
        weights: what was loaded (`zoo.weights.load_weights`).
        preprocessing: mean, std, input_size (C, H, W), interpolation, crop_pct, crop_mode.
    """

    model: nn.Module
    name: str
    resolved: str
    weights: dict[str, Any]
    preprocessing: dict[str, Any]


def create_model(
    name: str,
    *,
    weights: WeightsSource,
    seed: int = 0,
    image_size: tuple[int, int] | None = None,
    num_classes: int | None = None,
) -> LoadedModel:
    """Create `name` with `weights`. The caller's random state stays as it is.

    Args:
        name: timm name with or without tag, alias, `hf-hub:`, `local-dir:` or the demo model.
        weights: where the weights come from.
        seed: fixes random weights.
        image_size: height and width in pixels; None for the model's own.
        num_classes: width of the classifier, 0 for none; None for the model's own.

    Raises:
        UnknownModelError: nothing goes by that name.
        OptionError: the image size or class count cannot be used, or the weights file does not exist.
        UnsupportedModelError: timm fails to build the model.
        WeightsError: the weights cannot be downloaded, read, trusted or fitted.
    """
    weights.check()
    resolved = resolve(name)
    if weights.kind is WeightsKind.PRETRAINED:
        locate_pretrained(resolved)  # before the work of building a model that cannot be filled
    with torch.random.fork_rng(devices=[]), quiet():
        # Not torch.manual_seed, which reseeds every accelerator of the caller as well.
        torch.default_generator.manual_seed(seed)
        model = _build(resolved, image_size, num_classes)
    record = load_weights(model, weights, name=resolved, seed=seed)
    model = model.float().eval().requires_grad_(False)
    return LoadedModel(model, name, resolved, record, _preprocessing(model, image_size))


def create_meta(name: str, image_size: tuple[int, int] | None = None, num_classes: int | None = None) -> nn.Module:
    """The structure of `name` on the meta device, in evaluation mode: shapes without memory or weights.

    Raises:
        UnknownModelError: nothing goes by that name.
        OptionError: the image size or class count cannot be used.
        UnsupportedModelError: timm fails to build the model.
        WeightsError: the description of a hub repository cannot be downloaded.
    """
    resolved = resolve(name)
    with torch.random.fork_rng(devices=[]), quiet(), torch.device("meta"):
        return _build(resolved, image_size, num_classes).eval().requires_grad_(False)


def own_image_size(name: str) -> tuple[int, int]:
    """Height and width in pixels that `name` takes where no other size is asked for.

    Raises:
        TofuError: as `create_meta`.
    """
    _, height, width = _preprocessing(create_meta(name), None)["input_size"]
    return int(height), int(width)


def _build(resolved: str, image_size: tuple[int, int] | None, num_classes: int | None) -> nn.Module:
    if num_classes is not None and num_classes < 0:
        raise OptionError(f"num_classes is {num_classes}, expected a number of classes, or 0 for no classifier")
    build = _builder(resolved, num_classes)
    if image_size is not None:
        _check_size(resolved, build, image_size)
    return _call(resolved, build, image_size)


def _builder(resolved: str, num_classes: int | None) -> Callable[[tuple[int, int] | None], nn.Module]:
    if resolved == DEMO_MODEL:
        classes = 10 if num_classes is None else num_classes
        return lambda size: demo.build_model(size or (28, 28), num_classes=classes)
    timm_name = _local_name(resolved)

    def build(size: tuple[int, int] | None) -> nn.Module:
        # timm leaves out arguments that are None
        return timm.create_model(timm_name, pretrained=False, num_classes=num_classes, img_size=size)

    return build


def _local_name(resolved: str) -> str:
    """A hub name as the folder that its config.json was downloaded to: timm itself would retry for half a minute."""
    source, _, repository = resolved.partition(":")
    if source.replace("_", "-") != "hf-hub":
        return resolved
    try:
        return f"local-dir:{hub_file(repository, ('config.json',)).parent}"
    except WeightsError as error:
        raise WeightsError(
            f"model {resolved}: {error}. Download the repository elsewhere and give its folder as local-dir:FOLDER"
        ) from error.__cause__


def _check_size(
    resolved: str, build: Callable[[tuple[int, int] | None], nn.Module], image_size: tuple[int, int]
) -> None:
    height, width = image_size
    if height < 1 or width < 1:
        raise OptionError(f"image size {height}x{width}: expected pixels > 0, for example --image-size 224")
    with torch.device("meta"):
        usual = _call(resolved, build, None)
    patch = _patch_size(usual)
    if patch is None:
        raise OptionError(f"{resolved} does not cut images into patches of one size: leave out --image-size")
    if height % patch[0] or width % patch[1]:
        near = [max(1, round(side / step)) * step for side, step in zip(image_size, patch, strict=True)]
        raise OptionError(
            f"image size {height}x{width} does not divide into the {patch[0]}x{patch[1]} patches of {resolved}: "
            f"the nearest that does is {near[0]}x{near[1]}"
        )


def _call(
    resolved: str, build: Callable[[tuple[int, int] | None], nn.Module], image_size: tuple[int, int] | None
) -> nn.Module:
    try:
        return build(image_size)
    except TofuError:
        raise
    except FileNotFoundError as error:
        raise OptionError(f"model {resolved}: {error}; expected a folder with config.json and weights") from error
    except Exception as error:  # whatever the constructor of one of 1,400 models raises
        place = resolved.removeprefix("local-dir:")
        if place != resolved and is_transformers(Path(place)):
            raise OptionError(
                f"{resolved} is in the format of transformers, which names no architecture of timm: name one, and give "
                f"--weights {Path(place) / 'model.safetensors'} (see docs/weights.md)"
            ) from error
        if image_size is not None:
            raise OptionError(
                f"{resolved} cannot be built for images of {image_size[0]}x{image_size[1]} ({error}): "
                "choose another size, or leave out --image-size for its own"
            ) from error
        raise UnsupportedModelError(f"timm cannot build {resolved} ({type(error).__name__}: {error})") from error


def _patch_size(model: nn.Module) -> tuple[int, int] | None:
    """Pixels that one token covers, height and width; None for a model that is not cut into equal patches."""
    embed = getattr(model, "patch_embed", None) or getattr(model, "embeds", None)
    ratio = getattr(embed, "feat_ratio", None)
    if not callable(ratio):
        return None
    height, width = ratio(as_scalar=False)
    return int(height), int(width)


def _preprocessing(model: nn.Module, image_size: tuple[int, int] | None) -> dict[str, Any]:
    config = dict(resolve_model_data_config(model))  # type: ignore[no-untyped-call]  # timm types it partly
    channels, height, width = config["input_size"]
    config["input_size"] = (channels, *(image_size or (height, width)))
    return config
