"""Read a checkpoint with all that lies beside and inside it: tensors, model description, preprocessing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from tofu_export.errors import TofuError, WeightsError
from tofu_export.options import Halting
from tofu_export.zoo._adapter import Adapter, merge_inside, read_adapter
from tofu_export.zoo._beside import Settings, read_timm_args, read_timm_config, settings_inside
from tofu_export.zoo._checkpoint import read_checkpoint
from tofu_export.zoo._choice import choose
from tofu_export.zoo._dense import dense
from tofu_export.zoo._description import Description, merge
from tofu_export.zoo._folder import base_of
from tofu_export.zoo._gate import gate_of
from tofu_export.zoo._labels import labels_of
from tofu_export.zoo._open_clip import read_open_clip
from tofu_export.zoo._processor import read_processor
from tofu_export.zoo._shapes import describe_tensors, numbers_of_patches
from tofu_export.zoo._transformers import rename
from tofu_export.zoo._transformers_config import CONFIG, describe_config, describe_family
from tofu_export.zoo.preprocessing import PreprocessingOptions

__all__ = ["Source", "read_source"]


@dataclass(frozen=True)
class Source:
    """Weights file with its description.

    Attributes:
        file: name of the file.
        written: library that wrote it: timm, open_clip, or transformers and the family.
        key: key of the model among several; empty if it is all of the file.
        keys: keys of all models in the file.
        tensors: tensors by names that timm's conversions know, in float32.
        description: description of the model.
        where: source of the description, for messages.
        preprocessing: preprocessing of images.
        images_from: source of each preprocessing entry.
        unused: names of tensors that do not affect the output.
        notes: facts that are not stated, for which the model's own are assumed.
        undecided: its activation is GELU or QuickGELU, and nothing says which.
        adapter: an adapter was merged, which can have replaced the classifier.
        gate: gate by which its tokens were trained to halt; None if it does not say.
        architecture: name in timm of the architecture that it was saved from; empty if not named.
        arguments: arguments of `timm.create_model` that it was built with.
        labels: names of its classes, in order; empty if none are known.
    """

    file: str
    written: str
    key: str
    keys: tuple[str, ...]
    tensors: dict[str, Tensor]
    description: Description
    where: str
    preprocessing: PreprocessingOptions
    images_from: Mapping[str, str]
    unused: tuple[str, ...]
    notes: tuple[str, ...] = ()
    undecided: bool = False
    adapter: bool = False
    gate: Halting | None = None
    architecture: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()


def read_source(path: Path, *, key: str | None = None, beside: bool = True) -> Source:
    """Read a PyTorch or `.safetensors` checkpoint, and its description.

    Args:
        path: the file, the index of several, or an adapter of peft.
        key: key of the model among several.
        beside: also read descriptions in its folder, and options inside it.

    Raises:
        OptionError: the key leads to no model.
        WeightsError: the file cannot be read or trusted, holds no model, or describes one that contradicts its
            tensors or that timm cannot build.
    """
    base, found = base_of(path), read_checkpoint(path)
    try:
        if base is None:
            return _understood(merge_inside(found, path), path, key=key, beside=beside)
        adapter = read_adapter({name: value for name, value in found.items() if isinstance(value, Tensor)}, path)
        return _understood(read_checkpoint(base), base, key=key, beside=beside, adapter=adapter)
    except TofuError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{path.name}, or what lies beside it, has shapes or values that no vision transformer has "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason'}): use another file"
        ) from error


def _understood(
    found: Mapping[Any, Any], path: Path, *, key: str | None, beside: bool, adapter: Adapter | None = None
) -> Source:
    chosen = choose(found, file=path.name, key=key)
    tensors, unused = dense(chosen.tensors, file=path.name), chosen.beside
    if adapter is not None:
        tensors, apart = adapter.merge(tensors)
        unused = (*unused, *apart)
    renamed = rename(tensors)
    if renamed is not None:
        tensors = renamed.tensors
    shapes = describe_tensors(tensors)
    source = Source(
        path.name, "timm", chosen.key, chosen.keys, tensors, shapes, path.name, PreprocessingOptions(), {}, unused
    )
    if adapter is not None:
        source = replace(_with_images(source, adapter.path.parent), adapter=True, notes=(adapter.summary(path),))
    if renamed is not None:
        source = replace(source, written=f"transformers {renamed.family}", unused=(*unused, *renamed.unused))
        source = _of_transformers(source, renamed.family, path.parent)
    elif any(name.startswith("visual.") for name in tensors):
        source = replace(source, written="open_clip", undecided="visual.conv1.weight" in tensors)
        if _is_openai(found):
            source = replace(source, description=replace(shapes, activation="quick_gelu"), undecided=False)
    if not beside:
        return replace(source, description=Description(), undecided=False)
    source = _with_images(_with_settings(source, found, path), path.parent)
    labels, unnamed = labels_of(found, (adapter.path if adapter else path).parent)
    source = replace(source, labels=labels, notes=(*source.notes, *filter(None, [unnamed])))
    if (averages := _averages_in_a_list(found)) is not None:
        note = (
            f"{averages} are averaged weights without names, which are not read: save the averaged model's state dict"
        )
        source = replace(source, notes=(*source.notes, note))
    if (gate := gate_of(found, path)) is not None:
        note = f"trained to halt tokens (scale {gate.scale:g}, center {gate.center:g}), as --select halting does"
        source = replace(source, gate=gate, notes=(*source.notes, note))
    if source.description.pooling is not None:
        return source
    # Another number of special tokens would need another pooling: the name of the model has to say it.
    said = replace(source.description, class_token=None, reg_tokens=None)
    if said.pool_norm != "after":
        return replace(source, description=said)
    note = "its last norm stands after the pooling, which is taken to be the average"
    return replace(source, description=replace(said, pooling="avg"), notes=(*source.notes, note))


def _of_transformers(source: Source, family: str, folder: Path) -> Source:
    tensors, shapes = source.tensors, source.description
    pooling = describe_family(
        family,
        classifier=_has_head(tensors),
        class_token=bool(shapes.class_token),
        distilled="head_dist.weight" in tensors,
    )
    description = replace(shapes, **dict(pooling.said()))
    config = describe_config(folder, family)
    if config is None:
        note = f"no {CONFIG} beside it: activation, layer norm epsilon and number of heads are the model's own"
        notes = (*source.notes, note)
        return replace(source, description=description, notes=notes, undecided=family == "clip")
    # Labels of a model without a classifier or before it got another one; the width of a projection.
    if shapes.num_classes is None or source.adapter or family == "clip":
        config = replace(config, num_classes=None)
    if shapes.qkv_bias is None:
        config = replace(config, qkv_bias=None)
    names = (f"{folder / CONFIG}", source.file)
    source = _of_stated_size(replace(source, description=description), config)
    return replace(source, description=merge(config, source.description, names=names), where=CONFIG)


def _with_settings(source: Source, found: Mapping[Any, Any], path: Path) -> Source:
    """Add the options inside the file, and timm's and open_clip's configurations beside it."""
    if source.written.startswith("transformers"):
        return source
    clip = source.written == "open_clip" or path.name.startswith("open_clip")
    for options in (settings_inside(found, file=path.name), read_timm_args(path.parent)):
        source = _add(source, options, options=True)
    for config in (read_timm_config(path.parent), read_open_clip(path.parent) if clip else None):
        source = _add(source, config)
    return source


def _add(source: Source, settings: Settings | None, *, options: bool = False) -> Source:
    if settings is None:
        return source
    source, said = _of_stated_size(source, settings.description), settings.description
    if options:  # not for facts that tensors show: options can describe something else
        said = replace(said, **{name: None for name, _ in source.description.said()})
    if source.adapter:
        said = replace(said, num_classes=None)
    description = merge(said, source.description, names=(settings.where, source.where))
    images = settings.preprocessing
    return replace(
        source,
        description=description,
        where=settings.where if any(said.said()) else source.where,
        preprocessing=source.preprocessing.over(images),
        images_from={**dict.fromkeys(images.said(), settings.where), **source.images_from},
        undecided=source.undecided and said.activation is None,
        architecture=source.architecture or settings.architecture,
        arguments={**settings.arguments, **source.arguments},
    )


def _with_images(source: Source, folder: Path) -> Source:
    found = read_processor(folder)
    if found is None:
        return source
    processor, file = found
    return replace(
        source,
        preprocessing=source.preprocessing.over(processor),
        images_from={**dict.fromkeys(processor.said(), file), **source.images_from},
    )


def _of_stated_size(source: Source, said: Description) -> Source:
    """Return the source with the image size that a description states, if its positions are as many.

    The tensors alone show a number of positions, which is taken for a square.
    """
    size, patch = said.image_size, source.description.patch_size
    if size is None or patch is None:
        return source
    count = (size[0] // patch[0]) * (size[1] // patch[1])
    if count not in numbers_of_patches(source.tensors):
        return source
    return replace(source, description=replace(source.description, image_size=size))


def _has_head(tensors: Mapping[str, Tensor]) -> bool:
    return any(name.startswith(("head.", "visual.head.")) for name in tensors)


def _averages_in_a_list(found: Mapping[Any, Any]) -> str | None:
    """Return where a checkpoint keeps averaged weights in the order of parameters, as torch_ema does; None without."""
    for name, value in found.items():
        if isinstance(value, Mapping) and isinstance(value.get("shadow_params"), list) and value["shadow_params"]:
            return f"{name}.shadow_params"
    return None


def _is_openai(found: Mapping[Any, Any]) -> bool:
    """True for the state dict of OpenAI's own CLIP, whose activation is always QuickGELU."""
    return "input_resolution" in found and "context_length" in found
