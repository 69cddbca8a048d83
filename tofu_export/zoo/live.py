"""Models that a Python program already holds, as input of plans and exports."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from tofu_export import patch
from tofu_export.artifact.preprocessing import ENTRIES
from tofu_export.planning.plan import ModelSpec
from tofu_export.report.model import LIVE, LoadedWeights
from tofu_export.zoo._data_config import timm_preprocessing
from tofu_export.zoo.create import LoadedModel
from tofu_export.zoo.preprocessing import PreprocessingOptions

__all__ = ["architecture_of", "copy_of", "load_live", "name_of", "on_meta"]

_ORIGIN = "the model's pretrained_cfg"
_BY_CALLER = "the caller"


def architecture_of(model: nn.Module) -> str:
    """Return timm's name of a model, or else the name of its class."""
    return str(_config(model).get("architecture") or type(model).__name__)


def name_of(model: nn.Module) -> str:
    """Return the name of a model with the pretrained tag that timm created it for.

    The tag says what the weights may have been trained from, as in `planning.plan.ModelSpec.masked_autoencoder`. It
    does not name the weights: timm sets it without `pretrained=True` too, and they may have been trained since.
    """
    config = _config(model)
    tag = config.get("tag") if config.get("architecture") else None
    return f"{architecture_of(model)}.{tag}" if tag else architecture_of(model)


def _config(model: nn.Module) -> dict[str, Any]:
    return getattr(model, "pretrained_cfg", None) or {}


def on_meta(model: nn.Module) -> nn.Module:
    """Copy a model's structure to the meta device, without its plan, in evaluation mode; no weight is copied."""
    tensors = [*model.parameters(), *model.buffers()]
    memo: dict[int, Any] = {}
    for tensor in tensors:
        empty = torch.empty_like(tensor, device="meta", dtype=torch.float32 if tensor.is_floating_point() else None)
        memo[id(tensor)] = nn.Parameter(empty, False) if isinstance(tensor, nn.Parameter) else empty
    return patch.remove(copy.deepcopy(model, memo)).eval()


def copy_of(model: nn.Module) -> nn.Module:
    """Copy a model without its plan: float32, on the CPU, in evaluation mode, without gradients."""
    return patch.remove(copy.deepcopy(model)).to("cpu", torch.float32).eval().requires_grad_(False)


def load_live(model: nn.Module, spec: ModelSpec, preprocessing: PreprocessingOptions | None = None) -> LoadedModel:
    """Copy a live model, ready to be patched and exported: float32, on the CPU, in evaluation mode.

    Args:
        model: a timm model; it is not changed.
        spec: its structure, for the size of its input.
        preprocessing: preprocessing of images that overrides timm's for the model.

    Returns:
        The copy, named without a pretrained tag: its weights are the model's own.

    Raises:
        OptionError: no image can be prepared as the model's `pretrained_cfg` says.
    """
    asked = PreprocessingOptions() if preprocessing is None else preprocessing
    config = asked.onto(timm_preprocessing(model, spec.image_size, spec.in_chans))
    origins = {**dict.fromkeys(ENTRIES, _ORIGIN), **dict.fromkeys(asked.said(), _BY_CALLER)}
    name = architecture_of(model)
    return LoadedModel(copy_of(model), name, name, LoadedWeights(kind=LIVE), config, origins)
