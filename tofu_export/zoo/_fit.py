"""Fitting a state dict to a model: timm's conversions first, then a strict comparison that says what differs."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import timm
from timm.models import model_entrypoint
from torch import Tensor, nn

from tofu_export.errors import WeightsError
from tofu_export.zoo._checkpoint import first_not_finite
from tofu_export.zoo._quiet import quiet

__all__ = ["Fit", "Mismatch", "architecture_of", "classifiers_of", "fit"]

_LISTED: Final = 5
"""Keys of each kind that a message names; the rest is counted."""


@dataclass(frozen=True)
class Fit:
    """What fitting changed.

    Attributes:
        adapted: tensors that timm reshaped or resampled, as `name [old shape] -> [new shape]`.
        ignored: tensors in the file that the model has no place for, allowed.
    """

    adapted: tuple[str, ...]
    ignored: tuple[str, ...]


@dataclass(frozen=True)
class Mismatch:
    """How the tensors of a file differ from those of a model, name to shape."""

    missing: Mapping[str, tuple[int, ...]]
    unexpected: Mapping[str, tuple[int, ...]]
    reshaped: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]

    @classmethod
    def between(cls, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Mismatch:
        """Compare the tensors `found` in a file with those that a model has."""
        return cls(
            missing={name: tuple(wanted[name].shape) for name in wanted if name not in found},
            unexpected={name: tuple(found[name].shape) for name in found if name not in wanted},
            reshaped={
                name: (tuple(found[name].shape), tuple(wanted[name].shape))
                for name in wanted
                if name in found and found[name].shape != wanted[name].shape
            },
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Every tensor that differs."""
        return (*self.missing, *self.unexpected, *self.reshaped)

    def __str__(self) -> str:
        kinds = {
            "missing in the file": [f"{name} {list(shape)}" for name, shape in self.missing.items()],
            "unknown to the model": [f"{name} {list(shape)}" for name, shape in self.unexpected.items()],
            "of another shape": [
                f"{name} {list(got)} in the file, {list(wanted)} in the model"
                for name, (got, wanted) in self.reshaped.items()
            ],
        }
        return "; ".join(_summary(kind, items) for kind, items in kinds.items() if items)


def fit(model: nn.Module, found: Mapping[str, Tensor], *, name: str, file: str, spare: bool = False) -> Fit:
    """Load `found` into `model`, after timm's own conversions (position embedding, patch embedding, foreign keys).

    A classifier in the file is left out if the model was made without one.

    Args:
        model: receives the weights, in place.
        found: tensors by name, floating ones in float32.
        name: what the user calls the model, for messages.
        file: what the user calls the file, for messages.
        spare: accept tensors that the model has no place for, as timm does for some of its own files.

    Raises:
        WeightsError: a tensor is missing, unknown, of another shape, or has a NaN or an infinity.
    """
    converted = _convert(model, found)
    wanted = model.state_dict()
    mismatch = Mismatch.between(converted, wanted)
    heads = classifiers_of(model)
    ignored = [
        key for key in mismatch.unexpected if spare or (_belongs(key, heads) and not _has_classifier(wanted, heads))
    ]
    converted = {key: tensor for key, tensor in converted.items() if key not in ignored}
    mismatch = Mismatch.between(converted, wanted)
    if mismatch.names:
        raise WeightsError(_explain(mismatch, heads, name=name, file=file))
    broken = first_not_finite(converted)
    if broken is not None:
        raise WeightsError(f"{broken} in {file} holds NaN or infinity, expected finite weights: use another checkpoint")
    model.load_state_dict(converted)
    return Fit(
        adapted=tuple(
            f"{key} {list(found[key].shape)} -> {list(tensor.shape)}"
            for key, tensor in converted.items()
            if key in found and found[key].shape != tensor.shape
        ),
        ignored=tuple(sorted(ignored)),
    )


def architecture_of(model: nn.Module) -> str:
    """The timm architecture that `model` was created as; empty for a model that timm does not know."""
    return str(getattr(model, "pretrained_cfg", {}).get("architecture", ""))


def classifiers_of(model: nn.Module) -> tuple[str, ...]:
    """Names of the sub-modules that classify, for example `head`."""
    names = getattr(model, "pretrained_cfg", {}).get("classifier") or "head"
    return (names,) if isinstance(names, str) else tuple(names)


def _convert(model: nn.Module, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    convert = _filter_of(model)
    if convert is None:
        return dict(found)
    options = _filter_options(convert, architecture_of(model), found)
    arguments = (dict(found), model) if len(inspect.signature(convert).parameters) > 1 else (dict(found),)
    try:
        with quiet():
            return dict(convert(*arguments, **options))
    except (KeyError, IndexError, RuntimeError, ValueError, AttributeError, TypeError, AssertionError):
        return dict(found)  # weights of another architecture: the comparison says how they differ


def _filter_of(model: nn.Module) -> Callable[..., Mapping[str, Tensor]] | None:
    """The conversion of the module that makes the model, or else of the one that defines its class."""
    architecture = architecture_of(model)
    modules = [model_entrypoint(architecture).__module__] if timm.is_model(architecture) else []
    for module in (*modules, type(model).__module__):
        found = getattr(sys.modules.get(module), "checkpoint_filter_fn", None)
        if callable(found):
            return found  # type: ignore[no-any-return]  # looked up by name
    return None


def _filter_options(convert: Callable[..., Any], architecture: str, found: Mapping[str, Tensor]) -> dict[str, Any]:
    """Options that timm binds for some families.

    Source: timm 1.0.31, `deit._create_deit` and `vision_transformer._create_vision_transformer`.
    """
    options: dict[str, Any] = {}
    known = inspect.signature(convert).parameters
    if "adapt_layer_scale" in known and any("gamma_" in key for key in found):
        options["adapt_layer_scale"] = True
    if "antialias" in known and ("flexi" in architecture or "radio" in architecture):
        options.update(interpolation="bilinear", antialias=False)
    return options


def _explain(mismatch: Mismatch, heads: tuple[str, ...], *, name: str, file: str) -> str:
    if all(_belongs(key, heads) for key in mismatch.names):
        classes = next((got[0] for key, (got, _) in mismatch.reshaped.items() if key.endswith(".bias")), None)
        if classes is None:
            classes = next((got[0] for got, _ in mismatch.reshaped.values()), None)
        if classes is not None:
            return f"{file} fits {name} but for its classifier ({mismatch}): pass --num-classes {classes}"
        if not mismatch.unexpected:
            return (
                f"{file} fits {name} but has no classifier ({mismatch}): "
                "pass --num-classes 0 to export the features, or a file with one"
            )
    return f"{file} does not fit {name}: {mismatch}. Pass the name and --image-size that the weights were saved from"


def _summary(kind: str, items: list[str]) -> str:
    more = f", and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return f"{len(items)} {kind}: {', '.join(items[:_LISTED])}{more}"


def _belongs(key: str, heads: tuple[str, ...]) -> bool:
    return any(key.startswith(f"{head}.") for head in heads)


def _has_classifier(wanted: Mapping[str, Tensor], heads: tuple[str, ...]) -> bool:
    return any(_belongs(key, heads) for key in wanted)
