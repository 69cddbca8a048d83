"""The arithmetic of scales and steps, held to all numbers that a type has."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tofu_export.graph_patterns.quantized.form import FP8, INT8, Form

TYPES = (np.dtype(np.float32), np.dtype(np.float16))


def every_number(form: Form) -> NDArray[np.float32]:
    """All numbers of a type within its reach, in ascending order."""
    codes = np.arange(256, dtype=np.uint8).view(form.numbers.numpy()).astype(np.float32)
    return np.unique(codes[np.abs(codes) <= form.largest])


@pytest.mark.parametrize(("form", "count"), [(INT8, 255), (FP8, 253)])
def test_a_number_between_two_becomes_the_nearer_one(form: Form, count: int) -> None:
    numbers = every_number(form)
    assert len(numbers) == count
    low, high = numbers[:-1], numbers[1:]
    unit = np.ones(1, np.float32)
    for share, expected in ((0.4, low), (0.6, high)):
        found = form.quantized(low + np.float32(share) * (high - low), unit)
        np.testing.assert_array_equal(found.astype(np.float32), expected)
    largest = np.float32([1e6, -1e6, form.largest * 1.001])
    np.testing.assert_array_equal(
        form.quantized(largest, unit).astype(np.float32), np.float32([form.largest, -form.largest, form.largest])
    )


@pytest.mark.parametrize("form", [INT8, FP8])
def test_half_a_step_is_half_the_way_to_the_next_larger_number(form: Form) -> None:
    numbers = every_number(form)
    positive = numbers[numbers >= 0]
    np.testing.assert_array_equal(form.half_steps(positive)[:-1], np.diff(positive) / 2)
    np.testing.assert_array_equal(form.half_steps(-positive), form.half_steps(positive))


@pytest.mark.parametrize("form", [INT8, FP8])
@pytest.mark.parametrize("dtype", TYPES)
def test_a_scale_reaches_what_it_has_to_and_little_more(form: Form, dtype: np.dtype[np.floating]) -> None:
    largest = np.exp(np.random.default_rng(0).uniform(-2, 8, 1000)).astype(np.float32)
    scales = form.scales(largest, dtype)
    assert scales.dtype == dtype
    reached = scales.astype(np.float64) * form.largest
    least = 1 - (2e-7 if dtype == np.float32 else 1e-7)  # largest / 127 is rounded in float32
    assert (reached >= least * largest).all()
    assert (reached <= (1 + 2 * float(np.finfo(dtype).eps)) * largest).all()


@pytest.mark.parametrize("dtype", TYPES)
def test_a_scale_of_nothing_has_a_finite_inverse(dtype: np.dtype[np.floating]) -> None:
    scale = FP8.scales(np.zeros(1, np.float32), dtype)
    assert scale > 0
    assert np.isfinite(np.ones(1, dtype) / scale).all()
