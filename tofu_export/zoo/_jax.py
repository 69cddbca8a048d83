"""Original JAX/Flax ViT weights (`.npz`), read by the model's own loader in timm, and checked for what it skips.

timm's loader fills what it finds: it silently skips a classifier of another width, a deeper checkpoint and layers that
JAX never had. So every parameter starts as NaN here, and one that is still NaN afterwards was not loaded.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from tofu_export.errors import WeightsError
from tofu_export.zoo._description import Description
from tofu_export.zoo._fit import classifiers_of
from tofu_export.zoo._quiet import quiet
from tofu_export.zoo._unreadable import other_kind

__all__ = ["describe_npz", "load_npz"]

_WEIGHT: Final = re.compile(r"(kernel|bias|scale|pos_embedding|cls)$")
"""Ends of the names of weights; training can store other arrays beside them."""


def describe_npz(path: Path) -> Description:
    """Describe a model by the shapes of its arrays, which show the number of heads as well; empty for another layout.

    Raises:
        WeightsError: the file is not an `.npz` archive, or holds pickled objects.
    """
    with _opened(path) as archive:
        found = {
            name: tuple(archive[key].shape)
            for key in archive.files
            for name in ("embedding/kernel", "posembed_input/pos_embedding", "query/kernel", "head/kernel", "cls")
            if key.endswith(name)
        }
        hybrid = any("conv_root" in key for key in archive.files)  # its embedding follows a convolutional net
    kernel, query, table = (
        found.get(name, ()) for name in ("embedding/kernel", "query/kernel", "posembed_input/pos_embedding")
    )
    if len(kernel) != 4:
        return Description()
    side = math.isqrt(max(table[-2] - ("cls" in found), 0)) if len(table) == 3 else 0
    square = side > 0 and side * side == table[-2] - ("cls" in found)
    head = found.get("head/kernel", ())
    return Description(
        embed_dim=kernel[3],
        heads=query[1] if len(query) == 3 else None,
        image_size=(side * kernel[0], side * kernel[1]) if square and not hybrid else None,
        patch_size=None if hybrid else kernel[:2],
        in_chans=None if hybrid else kernel[2],
        num_classes=head[1] if len(head) == 2 else None,
    )


def load_npz(
    model: nn.Module, path: Path, *, name: str, trained: bool = False, features: bool = True
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Load an archive into a model, in place. After an error the weights of the model are undefined.

    Args:
        model: receives the weights.
        path: the archive.
        name: name of the model, for messages.
        trained: drop a layer before the classifier (`pre_logits`), which timm's models lack.
        features: the classifier may be dropped, as the model was asked for without one.

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
    if not getattr(model, "num_classes", 0):
        heads = tuple(key for key in shapes if re.search(r"(^|/)head/", key))
        if heads and not (features or trained):
            classes = next((shapes[key][-1] for key in heads), 0)
            raise WeightsError(
                f"{path.name} has a classifier, and {name} has none: pass --num-classes {classes}, or --num-classes 0 "
                "to leave it out"
            )
        dropped = (*dropped, *heads)
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
    with _opened(path) as archive:
        shapes = {}
        for key in archive.files:
            array = archive[key]
            if _WEIGHT.search(key) and not np.issubdtype(array.dtype, np.floating):
                raise WeightsError(
                    f"{key} in {path.name} is {array.dtype}, expected floating-point numbers: save the model's own "
                    "weights, before they are quantised"
                )
            if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
                raise WeightsError(f"{key} in {path.name} holds NaN or infinity: use another checkpoint")
            shapes[key] = array.shape
        return shapes


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open an archive, and turn all failures of reading it into one error."""
    try:
        # Opened here: numpy leaves the file open when the archive is damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            yield archive
    except (OSError, EOFError, ValueError, KeyError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise WeightsError(
            other_kind(path)
            or f"{path.name} is truncated or not a plain .npz archive ({type(error).__name__}: {error}); "
            "pickled objects in it are never loaded"
        ) from error
