"""Weights of a UNet: find their file or shards, and load them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from tofu_export.errors import WeightsError, first_line
from tofu_export.report.unet import UnetWeights
from tofu_export.system.files import require_file, sha256_of

__all__ = ["RANDOM", "describe_weights", "find_weights", "load_weights"]

RANDOM = "random"

_STEM = "diffusion_pytorch_model"
_INDEX = ".index.json"
"""Suffix of files that map tensors to shards."""
_NAMES = tuple(
    f"{_STEM}{suffix}"
    for suffix in (".safetensors", f".safetensors{_INDEX}", ".bin", f".bin{_INDEX}", ".fp16.safetensors")
)
"""File names that diffusers writes, in the order of preference."""


def find_weights(name: str, folder: Path | None, weights: str | None) -> Path | None:
    """Find the file of a UNet's weights, or the index of its shards; None for random weights.

    Args:
        name: name of the UNet.
        folder: folder of its config; None if there is none.
        weights: `random`, a file, or None for the weights beside the config.

    Raises:
        OptionError: the file asked for does not exist.
        WeightsError: there are no weights.
    """
    if weights == RANDOM:
        return None
    if weights is not None:
        require_file(Path(weights), f"{RANDOM} or a .safetensors or .bin file")
        return Path(weights)
    if folder is None:
        raise WeightsError(f"{name} is only a shape: give --weights {RANDOM}, or --weights FILE.safetensors")
    for candidate in _NAMES:
        if (folder / candidate).is_file():
            return folder / candidate
    raise WeightsError(f"{folder} holds none of {', '.join(_NAMES)}: give --weights FILE, or --weights {RANDOM}")


def load_weights(unet: nn.Module, file: Path) -> None:
    """Load the weights of a file, or of all shards of an index, into a UNet, as float32.

    Raises:
        WeightsError: a file is missing, cannot be read, or holds the weights of another UNet.
    """
    state: dict[str, Tensor] = {}
    for part in _parts(file):
        state |= _read(part)
    try:
        unet.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise WeightsError(f"{file} does not hold the weights of this UNet: {first_line(error)}") from error


def describe_weights(file: Path | None) -> UnetWeights:
    """Describe the weights for a report."""
    if file is None:
        return UnetWeights(RANDOM)
    shards = {part.name: sha256_of(part) for part in _parts(file)} if file.name.endswith(_INDEX) else None
    return UnetWeights("file", file.name, sha256_of(file), shards)


def _parts(file: Path) -> Iterator[Path]:
    """Yield the file itself, or the shards of an index, by name."""
    if not file.name.endswith(_INDEX):
        yield file
        return
    try:
        shards = sorted(set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(
            f"{file} is no index of shards ({first_line(error)}): expected a weight_map from tensors to files"
        ) from error
    for name in shards:
        if not isinstance(name, str) or Path(name).name != name:
            raise WeightsError(f"{file} names the shard {name!r}, expected the name of a file beside it")
        if not (file.parent / name).is_file():
            raise WeightsError(f"{file} names the shard {name}, which is not beside it: complete the download")
        yield file.parent / name


def _read(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a file, as float32."""
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
        return {key: value.float() for key, value in state.items()}
    except Exception as error:  # unpickling, safetensors' own class, values that are no tensors
        raise WeightsError(f"{file} does not hold the weights of this UNet: {first_line(error)}") from error
