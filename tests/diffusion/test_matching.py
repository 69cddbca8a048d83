"""The eager reduction on a grid against the oracle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.diffusion import reference
from tofu_export.diffusion.matching import match_grid, merge_grid, unmerge_grid
from tofu_export.diffusion.options import UnetReduction
from tofu_export.diffusion.plan import BlockPlan, destinations_of
from tofu_export.options import Method

C = 5
ROUNDING = 2e-6
"""Of float32 sums over a handful of tokens of unit size."""


def block(height: int, width: int, removed: int, method: Method, sy: int = 2, sx: int = 2) -> BlockPlan:
    positions = destinations_of(height, width, UnetReduction(ratio=0.1, sy=sy, sx=sx))
    return BlockPlan(0, "block", height, width, 1, method, removed, positions)


def tokens(count: int, batch: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, count, C, generator=torch.Generator().manual_seed(seed))


CASES = [(4, 4, 8), (4, 4, 12), (5, 7, 17), (3, 3, 1), (4, 6, 5)]


@pytest.mark.parametrize("method", [Method.PRUNE, Method.AVERAGE, Method.MLERP, Method.TOME])
@pytest.mark.parametrize(("height", "width", "removed"), CASES)
def test_equals_the_oracle(height: int, width: int, removed: int, method: Method) -> None:
    plan = block(height, width, removed, method)
    metric, values = tokens(height * width), tokens(height * width, seed=1)
    found = match_grid(metric, plan)
    reduced = merge_grid(values, found, plan)
    restored = unmerge_grid(reduced * 2 + 1, found)
    assert reduced.shape == (3, height * width - removed, C)
    chosen = reference.destinations(height, width, 2, 2)
    for image in range(3):
        keys, own = metric[image].double().numpy(), values[image].double().numpy()
        staying, leaving = reference.groups(keys, chosen, removed)
        assert len(leaving) == removed
        seen = reference.merge(own, chosen, leaving, {Method.TOME: "average"}.get(method, method.word))
        expected = np.stack([seen[position] for position in [*staying, *chosen]])
        np.testing.assert_allclose(reduced[image].numpy(), expected, atol=ROUNDING)
        whole = reference.unmerge({at: value * 2 + 1 for at, value in seen.items()}, leaving, height * width)
        np.testing.assert_allclose(restored[image].numpy(), whole, atol=2 * ROUNDING)


def test_tome_is_the_plain_mean() -> None:
    plan = block(4, 4, 8, Method.TOME)
    x = tokens(16)
    found = match_grid(x, plan)
    assert torch.equal(merge_grid(x, found, plan), merge_grid(x, found, replace(plan, method=Method.AVERAGE)))


def test_ties_keep_the_lower_source_and_take_the_lower_destination() -> None:
    plan = block(4, 4, 8, Method.PRUNE)
    found = match_grid(torch.ones(1, 16, C), plan)
    assert found.places is not None
    assert found.places.tolist() == [[1, 3, 4, 5]]
    assert found.rows[0, [6, 7, 9, 11, 12, 13, 14, 15]].tolist() == [4] * 8  # all go to the first destination
    assert found.rows[0, [0, 2, 8, 10]].tolist() == [4, 5, 6, 7]


def test_zeros_give_no_nan() -> None:
    plan = block(4, 4, 12, Method.MLERP)
    x = torch.zeros(1, 16, C)
    assert torch.equal(merge_grid(x, match_grid(x, plan), plan), torch.zeros(1, 4, C))


def test_half_precision_decides_as_its_values_in_float32() -> None:
    plan = block(5, 7, 17, Method.MLERP)
    x = (tokens(35) * 300).half()  # squares overflow in half precision
    found, wide = match_grid(x, plan), match_grid(x.float(), plan)
    assert torch.equal(found.rows, wide.rows)
    merged = merge_grid(x, found, plan)
    assert merged.dtype == torch.float16
    assert torch.isfinite(merged).all()
