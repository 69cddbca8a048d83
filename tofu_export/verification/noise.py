"""Measure what rounding explains of the difference between a file and its model, block by block.

One tolerance for all blocks and models must leave room for the deepest and most sensitive of them, and hides small
mistakes in all others. So rounding is measured: the eager model runs twice under the same decisions, as it is and with
the input and output of every block changed by about as much as the arithmetic inside a block rounds it. The distance
between the two runs, anywhere in the model, is what rounding alone does there, however the model amplifies it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tofu_export.patch.state import TokenState

__all__ = ["MOST_EXCESS", "ROUNDING", "changed_tokens", "excess", "rounded_activations"]

Array = NDArray[Any]

ROUNDING = 4 * 2.0**-24
"""Relative error that one block in FP32 adds to its tokens: half a unit in the last place for some 16 steps in a row.
The blocks of the models in docs/verification.md add 1e-7 to 3e-7."""

MOST_EXCESS = 5.0
"""Allowed error as a multiple of the expected rounding. Kernels differ by the order in which they add up; right files
are 0.3 to 1.6 times off (docs/verification.md)."""


@contextmanager
def rounded_activations(model: nn.Module) -> Iterator[None]:
    """Change the tokens that enter and leave the blocks of a model by `ROUNDING`, at random, inside the context."""
    generator = torch.Generator().manual_seed(0)

    def changed(tokens: Tensor) -> Tensor:
        noise = torch.randn(tokens.shape, generator=generator, dtype=tokens.dtype)
        return tokens + ROUNDING * tokens * noise

    with changed_tokens(model, changed):
        yield


@contextmanager
def changed_tokens(model: nn.Module, changed: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Apply a function to the tokens that enter and leave the blocks of a model inside the context."""

    def in_state(value: Tensor | TokenState) -> Tensor | TokenState:
        return value._replace(tokens=changed(value.tokens)) if isinstance(value, TokenState) else changed(value)

    def entering(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (in_state(inputs[0]), *inputs[1:])

    def leaving(_module: nn.Module, _inputs: Any, output: Tensor | TokenState) -> Tensor | TokenState:
        return in_state(output)

    blocks: Any = model.blocks
    handles = [blocks[0].register_forward_pre_hook(entering)]
    handles += [block.register_forward_hook(leaving) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def excess(got: Array, expected: Array, rounded: Array, shaken: Array | None = None) -> float:
    """Return the distance of a file from its model as a multiple of what rounding explains, as root mean squares.

    Args:
        got: output of the file.
        expected: output of the model.
        rounded: output of the model with `rounded_activations`.
        shaken: output of the file with its derived constants changed by their rounding (`verify.derived`).
    """
    error, noise = (_rms(np.asarray(value, np.float64) - expected) for value in (got, rounded))
    derived = 0.0 if shaken is None else _rms(np.asarray(shaken, np.float64) - got)
    explained = float(np.linalg.norm([noise, derived, ROUNDING * _rms(expected)]))
    return error / explained if explained else float(np.inf if error else 0)


def _rms(values: Array) -> float:
    return float(np.sqrt(np.square(values, dtype=np.float64).mean())) if values.size else 0.0
