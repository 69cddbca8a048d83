"""Create models ready to be patched and exported: created, loaded, frozen.

Every kind of name is handled here: timm's, our aliases, hub repositories, local folders and the demo model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from tofu_export import demo
from tofu_export.artifact.preprocessing import ENTRIES, Preprocessing
from tofu_export.errors import OptionError, TofuError, UnsupportedModelError, WeightsError
from tofu_export.options import Halting
from tofu_export.patch.predictors import PredictorShape, attach
from tofu_export.report.model import LoadedWeights, loading_words
from tofu_export.zoo._convert import architecture_of
from tofu_export.zoo._data_config import timm_preprocessing
from tofu_export.zoo._description import Description, arguments_for, changes, describe_model, undescribed
from tofu_export.zoo._download import hub_file
from tofu_export.zoo._json import read_object
from tofu_export.zoo._quiet import quiet
from tofu_export.zoo._source import Source
from tofu_export.zoo._transformers_config import is_transformers
from tofu_export.zoo.names import DEMO_MODEL, resolve
from tofu_export.zoo.preprocessing import PreprocessingOptions
from tofu_export.zoo.weights import WeightsKind, WeightsSource, fill, open_weights

__all__ = ["BY_OPTIONS", "LoadedModel", "create_meta", "create_model", "own_image_size"]

TIMM_DEFAULT = "timm's default"
BY_OPTIONS = "options"
"""Source of a preprocessing entry that an option set; other sources are file names."""


@dataclass(frozen=True)
class LoadedModel:
    """Model with its weights, in evaluation mode, float32, without gradients, on the CPU.

    Attributes:
        model: the untouched upstream module.
        name: name given by the user.
        resolved: resolved name, with the pretrained tag if one was given.
        weights: record of the loaded weights.
        preprocessing: how images are prepared for it.
        preprocessing_from: source of each entry but the size: a file, options, or timm's default.
        asked_image_size: height and width asked for; None for the model's own.
        asked_classes: number of classes asked for; None for the model's own.
        arguments: further arguments of `timm.create_model` that the weights need.
        predictors: trained predictors that the weights have; None without them.
        gate: gate by which the weights were trained to halt tokens; None if they do not say.
        labels: names of its classes, in order; empty if the weights do not name as many.
    """

    model: nn.Module
    name: str
    resolved: str
    weights: LoadedWeights
    preprocessing: Preprocessing
    preprocessing_from: Mapping[str, str] = field(default_factory=dict)
    asked_image_size: tuple[int, int] | None = None
    asked_classes: int | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    predictors: PredictorShape | None = None
    gate: Halting | None = None
    labels: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """True if the weights need another model than timm builds by that name."""
        return bool(self.arguments) or self.predictors is not None

    def summary(self) -> str:
        """Describe what was loaded, in one line."""
        return loading_words(self.weights, self.preprocessing, self.preprocessing_from)

    def meta(self) -> nn.Module:
        """Create the structure of the untouched model on the meta device."""
        model = create_meta(self.resolved, self.asked_image_size, self.asked_classes, self.arguments)
        if self.predictors is None:
            return model
        with torch.device("meta"):
            return attach(model, self.predictors, name=self.resolved)


def create_model(
    name: str,
    *,
    weights: WeightsSource,
    seed: int = 0,
    image_size: tuple[int, int] | None = None,
    num_classes: int | None = None,
    preprocessing: PreprocessingOptions | None = None,
) -> LoadedModel:
    """Create a model with weights, adapted to their description. The caller's random state is unchanged.

    Args:
        name: timm name with or without tag, alias, `hf-hub:`, `local-dir:` or the demo model.
        weights: where the weights come from.
        seed: fixes random weights.
        image_size: height and width in pixels; None for the model's own.
        num_classes: width of the classifier, 0 for none; None for the weights' or the model's own.
        preprocessing: preprocessing of images that overrides the weights and timm.

    Raises:
        UnknownModelError: no model has that name.
        OptionError: the image size, class count or preprocessing cannot be used, or the weights file does not exist.
        UnsupportedModelError: timm fails to build the model, or the weights have predictors that it cannot have.
        WeightsError: the weights cannot be downloaded, read, trusted or fitted.
    """
    weights.check()
    resolved = resolve(name)
    _check_classes(num_classes)
    located = open_weights(weights, name=resolved, seed=seed)  # before the work of building a model for it
    said = located.description or Description()
    asked = {"image_size": image_size, "num_classes": num_classes}
    keep = frozenset(field for field, value in asked.items() if value is not None)
    usual = Description()
    own: Mapping[str, Any] = {}
    arguments: dict[str, Any] = {}
    if any(said.said()):
        meta = create_meta(resolved, image_size, num_classes)
        usual, own = describe_model(meta), _own_arguments(located.source, meta)
        if own:
            meta = create_meta(resolved, image_size, num_classes, own)
        arguments = {**own, **arguments_for(said, meta, keep=keep)}
    with torch.random.fork_rng(devices=[]), quiet():
        # Not torch.manual_seed, which reseeds every accelerator of the caller as well.
        torch.default_generator.manual_seed(seed)
        model = _build(resolved, image_size, num_classes, arguments)
        if located.predictors is not None:
            attach(model, located.predictors, name=resolved)
    features = num_classes == 0 or weights.kind is WeightsKind.PRETRAINED
    record = fill(model, located, name=resolved, keep=keep, features=features)
    if any(said.said()):
        record = replace(record, set=(*changes(usual, describe_model(model)), *undescribed(own)))
    model = model.float().eval().requires_grad_(False)
    images, images_from = _preprocessing(model, image_size, located.source, preprocessing)
    gate = None if located.source is None else located.source.gate
    labels = () if located.source is None else located.source.labels
    return LoadedModel(
        model, name, resolved, record, images, images_from, image_size, num_classes, arguments, located.predictors,
        gate, labels if len(labels) == getattr(model, "num_classes", None) else (),
    )  # fmt: skip


def create_meta(
    name: str,
    image_size: tuple[int, int] | None = None,
    num_classes: int | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Create the structure of a model on the meta device, in evaluation mode: shapes without memory or weights.

    Args:
        name: name of the model, as for `create_model`.
        image_size: height and width in pixels; None for the model's own.
        num_classes: width of the classifier, 0 for none; None for the model's own.
        arguments: further arguments of `timm.create_model`.

    Raises:
        UnknownModelError: no model has that name.
        OptionError: the image size or class count cannot be used.
        UnsupportedModelError: timm fails to build the model.
        WeightsError: the description of a hub repository cannot be downloaded.
    """
    resolved = resolve(name)
    with torch.random.fork_rng(devices=[]), quiet(), torch.device("meta"):
        return _build(resolved, image_size, num_classes, arguments or {}).eval().requires_grad_(False)


def own_image_size(name: str) -> tuple[int, int]:
    """Return height and width in pixels of a model's default input.

    Raises:
        TofuError: as in `create_meta`.
    """
    return timm_preprocessing(create_meta(name)).image_size


def _build(
    resolved: str, image_size: tuple[int, int] | None, num_classes: int | None, arguments: Mapping[str, Any]
) -> nn.Module:
    _check_classes(num_classes)
    build = _builder(resolved, num_classes, arguments)
    if image_size is not None:
        _check_size(resolved, build, image_size)
    return _call(resolved, build, image_size)


def _check_classes(num_classes: int | None) -> None:
    if num_classes is not None and num_classes < 0:
        raise OptionError(f"num_classes is {num_classes}, expected a number of classes, or 0 for no classifier")


def _builder(
    resolved: str, num_classes: int | None, arguments: Mapping[str, Any]
) -> Callable[[tuple[int, int] | None], nn.Module]:
    asked = {} if num_classes is None else {"num_classes": num_classes}
    if resolved == DEMO_MODEL:
        more = {"num_classes": 10, **arguments, **asked}
        own = more.pop("img_size", (28, 28))
        return lambda size: demo.build_model(size or own, **more)
    timm_name = _local_name(resolved)

    def build(size: tuple[int, int] | None) -> nn.Module:
        sized = {} if size is None else {"img_size": size}
        return timm.create_model(timm_name, pretrained=False, **{**arguments, **asked, **sized})

    return build


def _local_name(resolved: str) -> str:
    """Return a hub name as the folder of its downloaded config.json: timm itself would retry for half a minute."""
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
    except Exception as error:  # constructors of 1,400 models may raise anything
        place = resolved.removeprefix("local-dir:")
        if place != resolved and is_transformers(Path(place)):
            named = (read_object(Path(place) / "config.json") or {}).get("architecture")  # of its wrapper for timm
            which = f"name {named}" if named else "which names no architecture of timm: name one"
            raise OptionError(
                f"{resolved} is in the format of transformers, {which}, and give "
                f"--weights {Path(place) / 'model.safetensors'} (see docs/weights.md)"
            ) from error
        if place != resolved and isinstance(error, TypeError) and _is_older_config(Path(place)):
            raise OptionError(
                f"{Path(place) / 'config.json'} has no pretrained_cfg, so that timm takes all entries for parts of it "
                f'({error}): add "pretrained_cfg": {{}}, or one with mean, std and crop_pct'
            ) from error
        if image_size is not None:
            raise OptionError(
                f"{resolved} cannot be built for images of {image_size[0]}x{image_size[1]} ({error}): "
                "choose another size, or leave out --image-size for its own"
            ) from error
        raise UnsupportedModelError(f"timm cannot build {resolved} ({type(error).__name__}: {error})") from error


def _is_older_config(folder: Path) -> bool:
    return "pretrained_cfg" not in (read_object(folder / "config.json") or {})


def _patch_size(model: nn.Module) -> tuple[int, int] | None:
    """Return the pixels that one token covers, height and width; None without equal patches."""
    embed = getattr(model, "patch_embed", None) or getattr(model, "embeds", None)
    ratio = getattr(embed, "feat_ratio", None)
    if not callable(ratio):
        return None
    height, width = ratio(as_scalar=False)
    return int(height), int(width)


def _own_arguments(source: Source | None, model: nn.Module) -> Mapping[str, Any]:
    """Return the arguments that the weights were saved with, if they are from the architecture of the model."""
    return source.arguments if source is not None and source.architecture == architecture_of(model) else {}


def _preprocessing(
    model: nn.Module,
    image_size: tuple[int, int] | None,
    source: Source | None,
    asked: PreprocessingOptions | None,
) -> tuple[Preprocessing, dict[str, str]]:
    """Return the preprocessing and the source of each entry: options, else the weights, else timm."""
    said = PreprocessingOptions() if source is None else source.preprocessing
    given = PreprocessingOptions() if asked is None else asked
    origins = dict.fromkeys(ENTRIES, TIMM_DEFAULT)
    origins |= {} if source is None else source.images_from
    origins |= dict.fromkeys(given.said(), BY_OPTIONS)
    return given.over(said).onto(timm_preprocessing(model, image_size)), origins
