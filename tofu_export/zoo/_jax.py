"""Original JAX/Flax ViT weights (`.npz`), read by the model's own loader in timm, and checked for what it skips.

timm's loader fills what it finds: it silently skips a classifier of another width, a deeper checkpoint and layers that
JAX never had. So every parameter starts as NaN here, and one that is still NaN afterwards was not loaded.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tofu_export.errors import WeightsError
from tofu_export.zoo._fit import classifiers_of
from tofu_export.zoo._quiet import quiet
from tofu_export.zoo._unreadable import other_kind

__all__ = ["load_npz"]


def load_npz(
    model: nn.Module, path: Path, *, name: str, trained: bool = False
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Load an archive into a model, in place. After an error the weights of the model are undefined.

    Args:
        model: receives the weights.
        path: the archive.
        name: name of the model, for messages.
        trained: drop a layer before the classifier (`pre_logits`), which timm's models lack.

    Returns:
        Names of resampled tensors, and of dropped ones.

    Raises:
        WeightsError: the file is not an `.npz` archive or holds pickled objects, the model has no loader, or the
            weights and the model do not match exactly.
    """
    load = getattr(model, "load_pretrained", None)
    if not callable(load):
        raise WeightsError(f"{name} cannot read .npz files: convert {path.name} to .safetensors first")
    shapes = _check_archive(path)
    dropped = tuple(key for key in shapes if key.startswith("pre_logits/"))
    if dropped and not trained:
        raise WeightsError(
            f"{path.name} has a layer before its classifier ({dropped[0]}), which {name} has not: the output would be "
            "another. Give weights without it, or pass --allow-dropped to leave it out"
        )
    depths = {int(found[1]) + 1 for key in shapes if (found := re.search(r"encoderblock_(\d+)/", key))}
    depth = len(getattr(model, "blocks", ()))
    if depths and max(depths) != depth:
        raise WeightsError(f"{path.name} has {max(depths)} blocks, but {name} has {depth}: pass the matching model")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    try:
        with quiet():
            load(str(path))
    except Exception as error:  # KeyError, RuntimeError or ValueError, depending on what differs
        raise WeightsError(
            f"{path.name} does not fit {name} ({type(error).__name__}: {error}): "
            "expected JAX/Flax weights of that model, as Google published them"
        ) from error
    skipped = [key for key, parameter in model.named_parameters() if bool(torch.isnan(parameter).any())]
    if not skipped:
        return _adapted(model, shapes), dropped
    heads = classifiers_of(model)
    if all(key.startswith(tuple(f"{head}." for head in heads)) for key in skipped):
        classes = next((shape[-1] for key, shape in shapes.items() if key.endswith("head/bias")), 0)
        raise WeightsError(f"{path.name} fits {name} but for its classifier: pass --num-classes {classes}")
    raise WeightsError(f"{path.name} does not fit {name}: it lacks {len(skipped)} tensors, such as {skipped[0]}")


def _adapted(model: nn.Module, shapes: dict[str, tuple[int, ...]]) -> tuple[str, ...]:
    """Return what timm's loader resampled: position and patch embeddings of another size."""
    found = []
    for key, shape in shapes.items():
        if key.endswith("posembed_input/pos_embedding"):
            wanted = tuple(getattr(model, "pos_embed", torch.empty(shape)).shape)
        elif key.endswith("embedding/kernel") and len(shape) == 4:
            weight = model.get_parameter("patch_embed.proj.weight").shape
            wanted = (*weight[2:], weight[1], weight[0])
        else:
            continue
        if shape != wanted:
            found.append(f"{key} {list(shape)} -> {list(wanted)}")
    return tuple(found)


def _check_archive(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each array of an archive, after checking that all are plain finite numbers."""
    try:
        # Opened here: numpy leaves the file open when the archive is damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            shapes = {}
            for key in archive.files:
                array = archive[key]
                if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
                    raise WeightsError(f"{key} in {path.name} holds NaN or infinity: use another checkpoint")
                shapes[key] = array.shape
            return shapes
    except (OSError, EOFError, ValueError, KeyError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise WeightsError(
            other_kind(path)
            or f"{path.name} is truncated or not a plain .npz archive ({type(error).__name__}: {error}); "
            "pickled objects in it are never loaded"
        ) from error
