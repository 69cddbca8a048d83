"""Find the weights file of a folder, and the base model of a peft adapter. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tofu_export.errors import WeightsError

__all__ = [
    "ADAPTER_CONFIG",
    "HUB_FILES",
    "adapter_in",
    "base_of",
    "checkpoint_in",
    "how_to_join",
    "read_adapter_config",
]

HUB_FILES: Final = ("model.safetensors", "pytorch_model.bin")
"""File names in timm's repositories, best first."""

ADAPTER_CONFIG: Final = "adapter_config.json"
"""File that peft writes beside an adapter."""

_ADAPTERS: Final = ("adapter_model.safetensors", "adapter_model.bin")
_CHECKPOINTS: Final = (
    *HUB_FILES,
    "open_clip_model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)


def checkpoint_in(folder: Path) -> Path | None:
    """Return the checkpoint in a folder, by the names that libraries use; None without one."""
    return next((folder / name for name in _CHECKPOINTS if (folder / name).is_file()), None)


def how_to_join(folder: Path) -> str:
    """Return how the parts of a checkpoint that training wrote in pieces become one file; empty for another folder."""
    if any(folder.glob("*.distcp")):
        return (
            "it holds a distributed checkpoint of PyTorch in parts: write it to one file with `python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {folder} weights.pth`, and give that"
        )
    if (folder / "zero_to_fp32.py").is_file() or any(folder.glob("*zero_pp_rank_*")):
        return (
            "it holds a checkpoint of DeepSpeed in parts: write it to one file with the zero_to_fp32.py that DeepSpeed "
            "put beside it, and give that"
        )
    return ""


def adapter_in(folder: Path) -> Path | None:
    """Return the peft adapter in a folder; None without one, or without its configuration."""
    found = (folder / name for name in _ADAPTERS if (folder / name).is_file())
    return next(found, None) if (folder / ADAPTER_CONFIG).is_file() else None


def read_adapter_config(folder: Path) -> Mapping[str, Any] | None:
    """Read the configuration of the adapter in a folder; None without one.

    Raises:
        WeightsError: it is not a JSON object.
    """
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is not JSON ({error}): copy it again") from error
    if not isinstance(config, Mapping):
        raise WeightsError(f"{path} holds a {type(config).__name__}, expected the settings of an adapter")
    return config


def base_of(path: Path) -> Path | None:
    """Return the checkpoint that an adapter changes; None for a file that is not an adapter with a configuration.

    Raises:
        WeightsError: the configuration names no base on this machine.
    """
    config = read_adapter_config(path.parent) if path.name in _ADAPTERS else None
    if config is None:
        return None
    named = config.get("base_model_name_or_path")
    places = [Path(named).expanduser(), path.parent / named] if isinstance(named, str) and named else []
    for place in places:
        found = checkpoint_in(place) if place.is_dir() else place
        if found is not None and found.is_file() and found != path:
            return found
    said = f"names {named!r}, which is no file or folder with a checkpoint here" if places else "names none"
    raise WeightsError(
        f"{path.name} is an adapter, and base_model_name_or_path in {path.parent / ADAPTER_CONFIG} {said}: download "
        "the base model and put its path there, or merge the two with peft, model.merge_and_unload(), save the state "
        "dict of what that returns, and give that file"
    )
