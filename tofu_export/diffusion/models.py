"""Find a UNet by name or folder, and load its weights, or create random ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tofu_export.diffusion._optional import load_diffusers, quiet_diffusers
from tofu_export.diffusion.configs import CONFIGS, TEXT_TOKENS
from tofu_export.diffusion.inputs import UnetInputs
from tofu_export.diffusion.options import LatentSize
from tofu_export.diffusion.weights import find_weights, load_weights
from tofu_export.errors import OptionError, UnknownModelError, UnsupportedModelError

__all__ = ["UnetSource", "create_unet", "find_unet", "inputs_of"]

_CONFIG = "config.json"
_SUBFOLDER = "unet"
_CLASS = "UNet2DConditionModel"


@dataclass(frozen=True)
class UnetSource:
    """Source of a UNet.

    Attributes:
        name: name given by the user.
        config: keyword arguments of its class.
        weights: file of its weights, or index of its shards; None for random ones.
    """

    name: str
    config: Mapping[str, Any]
    weights: Path | None

    @property
    def latent(self) -> LatentSize:
        """Latent size that the UNet was trained for."""
        size = self.config.get("sample_size") or 64
        return LatentSize(*size) if isinstance(size, (tuple, list)) else LatentSize(size, size)


def find_unet(name: str, weights: str | None = None) -> UnetSource:
    """Find a UNet by name or folder.

    Args:
        name: one of `CONFIGS`, or a folder: of a UNet (config.json and its weights), or of a pipeline that has one in
            `unet/`; or a config.json.
        weights: `random`, a file, or None for the weights beside the config.

    Raises:
        UnknownModelError: there is no such name or folder.
        UnsupportedModelError: the config is not that of a UNet2DConditionModel.
        WeightsError: the requested weights are missing.
    """
    path = Path(name)
    if name in CONFIGS:
        config: Mapping[str, Any] = CONFIGS[name]
        folder = None
    elif path.exists():
        file = _config_file(path)
        config, folder = _read_config(file), file.parent
    else:
        raise UnknownModelError(
            f"{name} is neither a folder nor one of {', '.join(CONFIGS)}. Models of the Hugging Face hub are not "
            "downloaded: get the folder with `hf download`, and give its path"
        )
    return UnetSource(name, config, find_weights(name, folder, weights))


def _config_file(path: Path) -> Path:
    candidates = [path] if path.is_file() else [path / _CONFIG, path / _SUBFOLDER / _CONFIG]
    if (path / "model_index.json").is_file():
        candidates.reverse()  # a pipeline: its UNet is in a subfolder
    for candidate in candidates:
        if candidate.is_file() and candidate.suffix == ".json":
            return candidate
    raise UnknownModelError(f"{path} holds no {_CONFIG} and no {_SUBFOLDER}/{_CONFIG}: expected a diffusers folder")


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UnsupportedModelError(f"{file} cannot be read as JSON: {error}") from error
    named = config.get("_class_name", _CLASS) if isinstance(config, dict) else None
    if named != _CLASS:
        raise UnsupportedModelError(
            f"{file} describes {'no model' if named is None else f'a {named}'}, expected a {_CLASS}: "
            "DiT, SD3 and Flux are not supported"
        )
    return {key: value for key, value in config.items() if not key.startswith("_")}


def create_unet(source: UnetSource, *, seed: int = 0, meta: bool = False) -> nn.Module:
    """Create the UNet in eval mode, float32; on the meta device without values if `meta`.

    Raises:
        BackendMissingError: diffusers is not installed.
        UnsupportedModelError: diffusers refuses the config.
        WeightsError: the weights cannot be read or do not fit.
    """
    diffusers = load_diffusers()
    values_later = meta or source.weights is not None
    with quiet_diffusers(), torch.random.fork_rng(devices=[]), torch.device("meta" if values_later else "cpu"):
        torch.manual_seed(seed)
        try:
            unet: nn.Module = diffusers.UNet2DConditionModel.from_config(dict(source.config))
        except (TypeError, ValueError) as error:
            raise UnsupportedModelError(f"diffusers cannot make a UNet of {source.name}: {error}") from error
    if source.weights is not None and not meta:
        load_weights(unet, source.weights)
    return unet.eval().requires_grad_(False)


def inputs_of(source: UnetSource, latent: LatentSize | None = None, text_tokens: int = TEXT_TOKENS) -> UnetInputs:
    """Return the inputs of a UNet.

    Raises:
        UnsupportedModelError: the UNet takes more than latents, a noise level, a text, and the inputs of SDXL.
        OptionError: `text_tokens` is not a number >= 1.
    """
    if text_tokens < 1:
        raise OptionError(f"text_tokens is {text_tokens}, expected a whole number >= 1")
    config = source.config
    unknown = [
        key
        for key in ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type", "time_cond_proj_dim")
        if config.get(key) is not None
    ]
    added = config.get("addition_embed_type")
    if added not in (None, "text_time"):
        unknown.append(f"addition_embed_type {added!r}")
    text_channels = config.get("cross_attention_dim", 1280)
    if not isinstance(text_channels, int):
        unknown.append("several cross_attention_dim")
    if unknown:
        raise UnsupportedModelError(f"{source.name} takes inputs that are not supported: {', '.join(unknown)}")
    pooled = 0
    if added:
        pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
    return UnetInputs(config.get("in_channels", 4), latent or source.latent, text_tokens, text_channels, pooled)
