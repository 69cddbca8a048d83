"""Model the latency of reductions: each kind of block timed once over several token counts, in eager PyTorch.

The time of a plan is the sum of its blocks' halves at their token counts, and a rest that is measured once with the
whole model. This ranks plans in microseconds; the chosen plan is timed as a whole afterwards.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tofu_export import patch
from tofu_export.options import Method, Reduction
from tofu_export.planning.plan import ModelSpec, Plan, make_plan

__all__ = ["LatencyTable", "measure_table", "time_plans"]

POINTS = 9
"""Number of token counts at which blocks are timed."""

_ROUNDS = 5
REPEATS = 7


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds of a block by token count, with and without a reduction, for one batch.

    Attributes:
        batch: batch size.
        tokens: token counts, ascending.
        block_ms: time of a block with that many tokens throughout.
        fuse_ms: time that a reduction of that many tokens adds to a block.
        rest_ms: time of everything but the blocks.
        scale: factor from the sum to the whole model's time.
    """

    batch: int
    tokens: tuple[int, ...]
    block_ms: tuple[float, ...]
    fuse_ms: tuple[float, ...]
    rest_ms: float
    scale: float = 1.0

    def predict(self, spec: ModelSpec, removed: Sequence[int]) -> float:
        """Return the milliseconds of a plan. A block counts at the mean of token counts before and after reduction."""
        total, tokens = self.rest_ms, spec.tokens
        for leaving in removed:
            total += self._at(tokens - leaving / 2, self.block_ms)
            total += self._at(tokens, self.fuse_ms) if leaving else 0.0
            tokens -= leaving
        return total * self.scale

    def _at(self, tokens: float, values: Sequence[float]) -> float:
        right = min(max(bisect_right(self.tokens, tokens), 1), len(self.tokens) - 1)
        low, high = self.tokens[right - 1], self.tokens[right]
        share = (tokens - low) / (high - low)
        return values[right - 1] + share * (values[right] - values[right - 1])


def time_plans(model: nn.Module, plans: Sequence[Plan | None], pixels: NDArray[np.float32], name: str) -> list[float]:
    """Return the median milliseconds of a batch under each plan (None: unpatched), their runs interleaved."""
    batch = torch.from_numpy(pixels)
    times: list[list[float]] = [[] for _ in plans]
    for number in range(_ROUNDS + 1):  # the first round warms up
        for index, plan in enumerate(plans):
            patch.remove(model) if plan is None else patch.apply(model, plan, name=name)
            elapsed = _milliseconds(lambda: model(batch))
            if number:
                times[index].append(elapsed)
    patch.remove(model)
    return [median(row) for row in times]


def measure_table(model: nn.Module, spec: ModelSpec, pixels: NDArray[np.float32]) -> LatencyTable:
    """Time the first block of an unpatched model over token counts, then fit the sum to two whole models.

    Args:
        model: the model; it is not changed.
        spec: its spec.
        pixels: one batch.
    """
    patch.remove(model)
    architecture: Any = model
    found: list[Tensor] = []
    handle = architecture.blocks[0].register_forward_pre_hook(lambda _module, args: found.append(args[0]))
    try:
        full_ms = median(_milliseconds(lambda: model(torch.from_numpy(pixels))) for _ in range(REPEATS))
    finally:
        handle.remove()
    least = max(4, spec.prefix_tokens + 2)
    counts = tuple(sorted({int(count) for count in np.linspace(least, spec.tokens, POINTS)}))
    plain = [_whole(architecture, spec, found[0], count, fused=False) for count in counts]
    fused = [_whole(architecture, spec, found[0], count, fused=True) for count in counts]
    extra = tuple(max(0.0, with_fuse - without) for with_fuse, without in zip(fused, plain, strict=True))
    rest = max(0.0, full_ms - spec.depth * plain[-1])
    table = LatencyTable(len(pixels), counts, tuple(np.maximum.accumulate(plain)), extra, rest)
    half = make_plan(spec, Reduction(r=max(1, (spec.tokens - spec.prefix_tokens) // (2 * spec.depth))))
    (measured,) = time_plans(model, [half], pixels, spec.name)
    predicted = table.predict(spec, [layer.removed for layer in half.layers])
    return LatencyTable(table.batch, table.tokens, table.block_ms, table.fuse_ms, table.rest_ms, measured / predicted)


def _whole(architecture: Any, spec: ModelSpec, tokens: Tensor, count: int, *, fused: bool) -> float:
    """Return the median milliseconds of the first block at a token count; with a reduction by one token if `fused`."""
    from tofu_export.patch.fuse import Step, fuse

    block, part = architecture.blocks[0], tokens[:, :count]

    def call() -> None:
        out = block(part)
        if fused:
            fuse(out, out, Step(Method.MLERP, 1, spec.prefix_tokens))

    _milliseconds(call)
    return median(_milliseconds(call) for _ in range(REPEATS))


@torch.inference_mode()
def _milliseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)
