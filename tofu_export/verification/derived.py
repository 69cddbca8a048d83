"""Constants of a half-precision file that were computed in half precision, not rounded from a model's numbers.

Tables of rotary positions or the weights of differential attention are computed from parameters when a file is made, in
its precision. They are off by some units in the last place, and FP32 arithmetic does not undo that.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from torch import nn

__all__ = ["derived_constants", "shaken"]

_STEP = 2.0**-11
"""Relative error of a constant computed in FP16: at most one unit in the last place."""
_FEW_BITS = 4


def derived_constants(path: Path, model: nn.Module, numbers: Sequence[float]) -> list[str]:
    """Names of the FP16 constants of a file that are neither a tensor of `model`, in any layout, nor one of `numbers`.

    Args:
        path: a file in FP16.
        model: the eager model.
        numbers: values that single constants may be rounded from.
    """
    known = {_fingerprint(np.asarray(each, np.float16)) for each in numbers}
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            known.add(_fingerprint(tensor.detach().half().numpy()))
    return [
        tensor.name
        for tensor in onnx.load(path).graph.initializer
        if tensor.data_type == TensorProto.FLOAT16
        and not _is_exact(values := numpy_helper.to_array(tensor))
        and _fingerprint(values) not in known
    ]


def shaken(path: Path, folder: Path, names: Sequence[str]) -> Path:
    """Copy an FP32 file into `folder` with the named constants changed by `_STEP`, up or down at random.

    The change of its outputs is what the rounding of these constants explains.

    Returns:
        The copy, under the same name.
    """
    rng = np.random.default_rng(0)
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name in names:
            values = numpy_helper.to_array(tensor)
            signs = rng.choice(np.array([-1, 1], np.float32), size=values.shape)
            tensor.CopyFrom(numpy_helper.from_array(values * (1 + np.float32(_STEP) * signs), tensor.name))
    folder.mkdir()
    copy = folder / path.name
    onnx.save_model(model, copy, save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024)
    return copy


def _is_exact(values: NDArray[Any]) -> bool:
    """True for numbers of few bits, such as 0, 1/2 or 10, which are exact."""
    mantissas = np.frexp(values.astype(np.float32))[0] * 2.0**_FEW_BITS
    return bool((mantissas == np.rint(mantissas)).all())


def _fingerprint(values: NDArray[Any]) -> tuple[int, bytes]:
    """Return a fingerprint that is equal for a tensor in any layout: its size, and some 4,096 of its sorted numbers."""
    flat = np.sort(values, axis=None)
    return flat.size, flat[:: max(1, flat.size // 4096)].tobytes()
