"""Read checkpoint files as mappings of tensors and settings, without unpickling anything that could run code."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from tofu_export.errors import WeightsError
from tofu_export.zoo._folder import base_of
from tofu_export.zoo._quiet import quiet
from tofu_export.zoo._unreadable import other_kind, why_unreadable

__all__ = ["INDEX_SUFFIX", "files_of", "first_not_finite", "read_checkpoint", "sha256_of"]

INDEX_SUFFIX: Final = ".index.json"
"""Suffix of the file that maps tensors to shards."""


def read_checkpoint(path: Path) -> Mapping[Any, Any]:
    """Read a `.safetensors` or PyTorch file, or all shards of an index, on the CPU.

    Raises:
        WeightsError: the file is truncated or not a checkpoint, a shard is missing, or it pickles objects other than
            weights and plain settings; such a file is refused before any of its code could run.
    """
    if path.name.endswith(INDEX_SUFFIX):
        return {name: tensor for shard in files_of(path) for name, tensor in _read(shard).items()}
    return _read(path)


def files_of(path: Path) -> tuple[Path, ...]:
    """Return the file itself, the shards of an index in its order, or an adapter and the files of its base.

    Raises:
        WeightsError: the index cannot be read, a shard is not beside it, or an adapter has no base here.
    """
    base = base_of(path)
    if base is not None:
        return (path, *files_of(base))
    if not path.name.endswith(INDEX_SUFFIX):
        return (path,)
    try:
        names = dict.fromkeys(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
        shards = tuple(path.parent / Path(name).name for name in names)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            other_kind(path)
            or f"{path.name} is not an index of shards ({type(error).__name__}): expected JSON with weight_map"
        ) from error
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing or not shards:
        raise WeightsError(f"{path.name} names shards that are not beside it: {', '.join(missing) or 'none at all'}")
    return shards


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first tensor with a NaN or an infinity, None without one."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return name
    return None


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of all files of a checkpoint (`files_of`) in sequence, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in files_of(path):
        with part.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _read(path: Path) -> Mapping[Any, Any]:
    try:
        with quiet():
            if path.suffix.lower() == ".safetensors":
                return load_file(path)
            # Not timm's load_state_dict: up to 1.0.20 it tries again without weights_only after a TypeError.
            with torch.serialization.safe_globals(_plain_types()):
                found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, zip, pickle and safetensors each have their own
        raise WeightsError(why_unreadable(path, error)) from error
    if not isinstance(found, Mapping):
        raise WeightsError(
            f"{path.name} holds a {type(found).__name__}, no state dict: save one with "
            "torch.save(model.state_dict(), PATH)"
        )
    return found


def _plain_types() -> list[Any]:
    """Return types that training scripts store beside weights: options in a Namespace, paths, numbers of numpy."""
    kinds = [
        np.float64, np.float32, np.float16, np.int64, np.int32, np.int16, np.int8, np.uint64, np.uint32, np.uint16,
        np.uint8, np.bool_,
    ]  # fmt: skip
    # numpy 1 pickles numbers by the module name that numpy 2 made private.
    scalar, array = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]
    return [
        argparse.Namespace,
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        (array, "numpy.core.multiarray._reconstruct"),
        (array, "numpy._core.multiarray._reconstruct"),
        np.ndarray,
        np.dtype,
        *[
            (kind, f"{module}.{name}")  # the pure kinds open no files, and exist on every system
            for module in ("pathlib", "pathlib._local")
            for kind in (PurePosixPath, PureWindowsPath)
            for name in (kind.__name__, kind.__name__.removeprefix("Pure"))
        ],
        *dict.fromkeys(type(np.dtype(kind)) for kind in kinds),
    ]
