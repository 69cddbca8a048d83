"""Checkpoint files as plain state dicts: every common wrapping taken off, nothing unpickled that could run code."""

from __future__ import annotations

import argparse
import hashlib
import pickletools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import torch
from safetensors.torch import load_file
from timm.models import clean_state_dict
from torch import Tensor

from tofu_export.errors import WeightsError
from tofu_export.zoo._quiet import quiet

__all__ = ["first_not_finite", "read_state_dict", "sha256_of"]

_WRAPPERS: Final = ("state_dict_ema", "model_ema", "state_dict", "model", "encoder")
"""Entries that training scripts put the weights under, best first. `encoder` is I-JEPA's."""

_PREFIXES: Final = ("backbone.", "model.")
"""Attributes that a model hangs on in a larger one. Removed only if every key has it."""

_PLAIN_WEIGHTS: Final = ("torch.", "collections.OrderedDict", "argparse.Namespace")
"""What a pickle of tensors names."""

_MOST_WRAPPINGS: Final = 4
"""A pickled dict can contain itself."""


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` or PyTorch checkpoint by their plain names, floating ones as float32, on the CPU.

    Raises:
        WeightsError: truncated, not a checkpoint, without tensors, or holding pickled objects other than weights; such
            a file is refused before any of its code could run.
    """
    try:
        with quiet():
            found = _read(path)
    except Exception as error:  # torch, zip, pickle and safetensors each have their own
        raise WeightsError(_refusal(path, error)) from error
    tensors = _plain(found)
    if not tensors:
        entries = ", ".join(sorted(str(key) for key in found)[:5]) or "nothing"
        raise WeightsError(
            f"{path.name} holds no tensors (its entries: {entries}), expected a state dict: "
            "save one with torch.save(model.state_dict(), PATH)"
        )
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Name of the first tensor with a NaN or an infinity, None without one."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return name
    return None


def sha256_of(path: Path) -> str:
    """SHA-256 of the file, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read(path: Path) -> Mapping[Any, Any]:
    if path.suffix.lower() == ".safetensors":
        return load_file(path)
    # Not timm's load_state_dict: up to 1.0.20 it tries again without weights_only after a TypeError.
    with torch.serialization.safe_globals([argparse.Namespace]):  # timm's training script stores its options in one
        found = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(found, Mapping):
        raise TypeError(f"it holds one {type(found).__name__}, no state dict")
    return found


def _plain(found: Mapping[Any, Any]) -> dict[str, Tensor]:
    for _ in range(_MOST_WRAPPINGS):
        inner = next((found[key] for key in _WRAPPERS if isinstance(found.get(key), Mapping)), None)
        if inner is None:
            break
        found = inner
    tensors = {key: value for key, value in found.items() if isinstance(key, str) and isinstance(value, Tensor)}
    return _without_prefixes(tensors)


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    while True:
        stripped = clean_state_dict(tensors)
        for prefix in _PREFIXES:
            if stripped and all(name.startswith(prefix) for name in stripped):
                stripped = {name.removeprefix(prefix): tensor for name, tensor in stripped.items()}
        if stripped.keys() == tensors.keys():
            return tensors
        tensors = stripped


def _refusal(path: Path, error: Exception) -> str:
    objects = _unsafe_objects(path)
    if objects:
        return (
            f"{path.name} holds pickled Python objects ({', '.join(objects[:3])}), which could run code when loaded; "
            "it was not loaded. Expected plain tensors: save model.state_dict() with torch.save or, better, as "
            ".safetensors"
        )
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    detail = f"{type(error).__name__}{f': {lines[0]}' if lines else ''}"
    return (
        f"{path.name} is truncated or not a checkpoint ({path.stat().st_size:,} bytes; {detail}). "
        "Expected .safetensors, or a file written by torch.save(model.state_dict(), PATH): copy or download it again"
    )


def _unsafe_objects(path: Path) -> list[str]:
    """Names that a pickle asks for and plain weights do not, found without running it; empty if it has none."""
    try:
        return list(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # not a zip archive: a bare pickle, several in a row, or anything at all
        with path.open("rb") as file:
            return [name for name in _globals(file) if not name.startswith(_PLAIN_WEIGHTS)]


def _globals(file: BinaryIO) -> Iterator[str]:
    """Every `module.name` in a row of pickles, up to the first byte that is not a pickle's."""
    texts: list[str] = []
    try:
        while True:
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == "GLOBAL":
                    yield str(argument).replace(" ", ".")
                elif opcode.name == "STACK_GLOBAL":
                    yield ".".join(texts[-2:])
                elif "UNICODE" in opcode.name:
                    texts.append(str(argument))
    except (ValueError, UnicodeDecodeError, IndexError):
        return
