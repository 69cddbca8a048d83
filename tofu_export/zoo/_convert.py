"""Convert state dicts with timm's own filters, and track which tensors of a file reach the model."""

from __future__ import annotations

import inspect
import sys
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.models import model_entrypoint
from torch import Tensor, nn

from tofu_export.zoo._quiet import quiet

__all__ = ["Converted", "architecture_of", "convert"]


@dataclass(frozen=True)
class Converted:
    """A state dict after timm's conversions.

    Attributes:
        tensors: by the model's names, as far as timm knows them.
        adapted: resampled or reshaped tensors, as `name [old shape] -> [new shape]`.
        lost: names of tensors that timm left out.
    """

    tensors: dict[str, Tensor]
    adapted: tuple[str, ...]
    lost: tuple[str, ...]


def convert(model: nn.Module, found: Mapping[str, Tensor]) -> Converted:
    """Convert a state dict as timm does for its own downloads: position and patch embeddings, foreign names."""
    run = _conversion_of(model, found)
    if run is None:
        return Converted(dict(found), (), ())
    try:
        tensors = run(found)
    except (KeyError, IndexError, RuntimeError, ValueError, AttributeError, TypeError, AssertionError):
        return Converted(dict(found), (), ())  # weights of another architecture: the comparison says how they differ
    origins = _origins(run, found, tensors)
    adapted = [
        _adapted(origin, found[origin], name, tensor)
        for name, tensor in tensors.items()
        for origin in origins.get(name, ())
        if found[origin].numel() != tensor.numel() or (origin == name and found[origin].shape != tensor.shape)
    ]
    used = {origin for names in origins.values() for origin in names}
    return Converted(tensors, tuple(adapted), tuple(name for name in found if name not in used))


def architecture_of(model: nn.Module) -> str:
    """Return the timm architecture that a model was created as; empty for a model that timm does not know."""
    return str(getattr(model, "pretrained_cfg", {}).get("architecture", ""))


def _conversion_of(
    model: nn.Module, found: Mapping[str, Tensor]
) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]] | None:
    function = _filter_of(model)
    if function is None:
        return None
    options = _filter_options(function, architecture_of(model), found)
    takes_model = len(inspect.signature(function).parameters) > 1

    def run(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with quiet():
            return dict(function(dict(tensors), *((model,) if takes_model else ()), **options))

    return run


def _filter_of(model: nn.Module) -> Callable[..., Mapping[str, Tensor]] | None:
    """Return the conversion of the module that creates the model, or else of the one that defines its class."""
    architecture = architecture_of(model)
    modules = [model_entrypoint(architecture).__module__] if timm.is_model(architecture) else []
    for module in (*modules, type(model).__module__):
        found = getattr(sys.modules.get(module), "checkpoint_filter_fn", None)
        if callable(found):
            return found  # type: ignore[no-any-return]  # looked up by name
    return None


def _filter_options(function: Callable[..., Any], architecture: str, found: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return options that timm binds for some families.

    Source: timm 1.0.31, `deit._create_deit` and `vision_transformer._create_vision_transformer`.
    """
    options: dict[str, Any] = {}
    known = inspect.signature(function).parameters
    if "adapt_layer_scale" in known and any("gamma_" in key for key in found):
        options["adapt_layer_scale"] = True
    if "antialias" in known and ("flexi" in architecture or "radio" in architecture):
        options.update(interpolation="bilinear", antialias=False)
    return options


def _origins(
    run: Callable[[Mapping[str, Tensor]], dict[str, Tensor]], found: Mapping[str, Tensor], result: Mapping[str, Tensor]
) -> dict[str, list[str]]:
    """Return the names in the file that each converted tensor was made from.

    Most are the tensors themselves or views of them. If memory does not tell, a tensor is replaced by NaN and the
    conversion repeated: tensors that become NaN were made from it.
    """
    spans = sorted((tensor.data_ptr(), tensor.nbytes, name) for name, tensor in found.items() if tensor.numel())
    starts = [start for start, _, _ in spans]
    origins: dict[str, list[str]] = {}
    for name, tensor in result.items():
        at = bisect_right(starts, tensor.data_ptr()) - 1
        if at >= 0 and tensor.data_ptr() < spans[at][0] + spans[at][1]:
            origins[name] = [spans[at][2]]
    used = {origin for names in origins.values() for origin in names}
    for name, tensor in found.items():
        if name in used or not tensor.is_floating_point():
            continue
        tainted = run({**found, name: torch.full_like(tensor, torch.nan)})
        for reached, values in tainted.items():
            if reached not in origins and values.is_floating_point() and bool(values.isnan().any()):
                origins.setdefault(reached, []).append(name)
    return origins


def _adapted(origin: str, before: Tensor, name: str, after: Tensor) -> str:
    target = "" if origin == name else f"{name} "
    return f"{origin} {list(before.shape)} -> {target}{list(after.shape)}"
