"""Convert tensors of a checkpoint to dense float32: quantised ones are dequantised by their own scales, or refused."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from tofu_export.errors import WeightsError

__all__ = ["dense"]

_SCALES: Final = ("{name}_scale", "{name}.scale", "{stem}.scale", "{stem}.scales", "{stem}.weight_scale")
_ZERO_POINTS: Final = ("{name}_zero_point", "{name}.zero_point", "{stem}.zero_point", "{stem}.weight_zero_point")

_COUNTS: Final = ("position_ids", "relative_position_index", "num_batches_tracked", "n_averaged", "epoch", "step")
"""Last name parts of integer tensors in models that are not quantised."""

_FLOAT8: Final = tuple(
    getattr(torch, name) for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
)

_WAY_ON: Final = "save the model's own weights as float32, before it is quantised, or dequantise them first"


def dense(tensors: Mapping[str, Tensor], *, file: str) -> dict[str, Tensor]:
    """Return tensors in float32; integer tensors that are not weights stay unchanged.

    Integer and 8-bit floating weights are multiplied by the scale beside them (per tensor, or per row), less their
    zero point; scales and zero points are dropped.

    Args:
        tensors: tensors by name.
        file: name of the file, for messages.

    Raises:
        WeightsError: a weight is quantised and its scale is missing or of another shape, it is complex, or has no
            values (meta device).
    """
    found: dict[str, Tensor] = {}
    used: set[str] = set()
    for name, tensor in tensors.items():
        plain = _plain(name, tensor, file)
        if plain.is_complex():
            raise WeightsError(f"{name} in {file} is {plain.dtype}, expected real numbers: use another checkpoint")
        if plain.dtype in _FLOAT8 or _is_integer(name, plain):
            scale = _companion(name, tensors, _SCALES)
            if scale is None and plain.dtype not in _FLOAT8:
                raise WeightsError(f"{name} in {file} is {plain.dtype} without a scale: {_WAY_ON}")
            zero = _companion(name, tensors, _ZERO_POINTS)
            used |= {key for key in (scale, zero) if key is not None}
            plain = _scaled(name, plain, *(None if key is None else tensors[key] for key in (scale, zero)), file=file)
        found[name] = plain.float() if plain.is_floating_point() else plain
    return {name: tensor for name, tensor in found.items() if name not in used}


def _plain(name: str, tensor: Tensor, file: str) -> Tensor:
    anything: object = tensor
    if is_traceable_wrapper_subclass(anything):
        raise WeightsError(
            f"{name} in {file} is a {type(tensor).__name__}, which holds its values in parts, expected a plain tensor: "
            "call full_tensor() of torch.distributed's, or dequantize() of quantised ones, before they are saved"
        )
    if tensor.is_meta:
        raise WeightsError(
            f"{name} in {file} is on the meta device, which has no values: save the weights of a model that has some"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # quantised tensors are deprecated in torch
        if tensor.is_quantized:
            return tensor.dequantize()
        return tensor if tensor.layout is torch.strided else tensor.to_dense()


def _is_integer(name: str, tensor: Tensor) -> bool:
    if tensor.is_floating_point() or tensor.ndim == 0:
        return False
    last = name.rsplit(".", 1)[-1]
    return last not in _COUNTS and not last.endswith(("zero_point", "_idx", "_index"))


def _companion(name: str, tensors: Mapping[str, Tensor], patterns: tuple[str, ...]) -> str | None:
    stem = name.rpartition(".")[0]
    names = (pattern.format(name=name, stem=stem) for pattern in patterns)
    return next((found for found in names if found in tensors and found != name), None)


def _scaled(name: str, values: Tensor, scale: Tensor | None, zero: Tensor | None, *, file: str) -> Tensor:
    result = values.to(torch.float32)
    for companion, combine in ((zero, torch.sub), (scale, torch.mul)):
        if companion is None:
            continue
        result = combine(result, _rowwise(name, companion, values, file))
    return result


def _rowwise(name: str, companion: Tensor, values: Tensor, file: str) -> Tensor:
    """Return a scale or zero point for broadcasting: one number, or one per row, [rows], [rows, 1] and so on."""
    numbers = companion.to(torch.float32)
    if numbers.numel() == 1:
        return numbers.reshape(())
    if tuple(numbers.shape) == (len(values), *(1 for _ in range(numbers.ndim - 1))):
        return numbers.reshape(len(values), *(1 for _ in range(values.ndim - 1)))
    raise WeightsError(
        f"{name} {list(values.shape)} in {file} has a scale or zero point of shape {list(companion.shape)}, expected "
        f"one number, or one a row: {_WAY_ON}"
    )
