"""Describe a model by the names and shapes of its tensors, which timm's conversions know."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from tofu_export.zoo._description import Description

__all__ = ["describe_tensors", "numbers_of_patches"]


def describe_tensors(tensors: Mapping[str, Tensor]) -> Description:
    """Describe a model by names and shapes; empty for a state dict without a patch embedding."""
    clip = "visual.conv1.weight" in tensors
    patches = tensors.get("visual.conv1.weight" if clip else "patch_embed.proj.weight")
    if patches is None:
        return Description()
    patch_size = (int(patches.shape[2]), int(patches.shape[3])) if patches.ndim == 4 else None
    return Description(
        class_token=_has_class_token(tensors),
        reg_tokens=_registers(tensors),
        qkv_bias=_qkv_bias(tensors),
        image_size=_image_size(numbers_of_patches(tensors), patch_size),
        patch_size=patch_size,
        in_chans=int(patches.shape[1]) if patches.ndim == 4 else None,
        num_classes=_classes(tensors, len(patches)),
        **_pooling(tensors),  # type: ignore[arg-type]  # texts
    )


def _image_size(patches: Sequence[int], patch_size: tuple[int, int] | None) -> tuple[int, int] | None:
    """Return the image size for a square grid, by the first number of patches that makes one."""
    if patch_size is None:
        return None
    for count in patches:
        side = math.isqrt(max(count, 0))
        if side and side * side == count:
            return side * patch_size[0], side * patch_size[1]
    return None


def numbers_of_patches(tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Return the numbers of patches that a table of positions can be for, the likeliest first; empty without one."""
    position = tensors.get("visual.positional_embedding", tensors.get("pos_embed"))
    if position is None:
        return _from_relative(tensors)
    if position.ndim not in (2, 3):
        return ()
    registers, prefix = _registers(tensors), _has_class_token(tensors) + ("dist_token" in tensors)
    rows = int(position.shape[-2])
    return tuple(dict.fromkeys(rows - others for others in (prefix + registers, prefix, 0)))


def _from_relative(tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Return the number of patches of BEiT's table: (2s - 1)^2 distances in a square of s, and 3 of the class token."""
    table = next((t for name, t in tensors.items() if name.endswith("relative_position_bias_table")), None)
    if table is None or table.ndim != 2:
        return ()
    distances = math.isqrt(max(len(table) - 3, 0))
    return (((distances + 1) // 2) ** 2,) if distances % 2 and distances**2 == len(table) - 3 else ()


def _has_class_token(tensors: Mapping[str, Tensor]) -> bool:
    return "visual.class_embedding" in tensors or "cls_token" in tensors


def _registers(tensors: Mapping[str, Tensor]) -> int:
    names = ("reg_token", "register_tokens", "storage_tokens")
    return next((int(tensors[name].shape[1]) for name in names if name in tensors), 0)


def _classes(tensors: Mapping[str, Tensor], width: int) -> int | None:
    """Return the width of a linear classifier on C features; None without one, or for another kind."""
    for name, across in (("head.weight", 1), ("visual.head.weight", 1), ("visual.proj", 0)):
        weight = tensors.get(name)
        if weight is not None and weight.ndim == 2 and weight.shape[across] == width:
            return int(weight.shape[1 - across])
    return None


def _qkv_bias(tensors: Mapping[str, Tensor]) -> bool | None:
    """Return whether queries and values have a bias; None for one of zeros, which a model need not have."""
    biases = [t for name, t in tensors.items() if re.search(r"attn\.(qkv\.bias|in_proj_bias|q_bias|v_bias)$", name)]
    if not biases:
        return False if any(name.endswith("attn.qkv.weight") for name in tensors) else None
    return True if any(bool(bias.any()) for bias in biases) else None


def _pooling(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return what the names of tensors show of the pooling and the norm beside it.

    Source: facebookresearch/dinov3, `DinoVisionTransformer.forward`, for `storage_tokens`.
    """
    if "attn_pool.latent" in tensors:
        return {"pooling": "map"}
    if "storage_tokens" in tensors and "blocks.0.attn.wq.weight" not in tensors:  # as Sapiens2 calls it
        return {"pooling": "token", "pool_norm": "before"}
    if "fc_norm.weight" in tensors and "norm.weight" not in tensors:
        return {"pool_norm": "after"}
    return {}
