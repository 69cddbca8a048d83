from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from tofu_export.errors import OptionError
from tofu_export.evaluate.paired import compare, from_counts, share_interval


def decided(both: int, first: int, second: int, neither: int) -> tuple[NDArray[np.int64], ...]:
    """Decisions of two files that are right on so many images each."""
    a = np.array([1] * both + [1] * first + [0] * second + [0] * neither)
    b = np.array([1] * both + [0] * first + [1] * second + [0] * neither)
    return a, b, np.ones(len(a), dtype=np.int64)


def test_equal_files_are_not_told_apart() -> None:
    result = compare(*decided(90, 0, 0, 10))
    assert (result.difference, result.p_value, result.separate) == (0.0, 1.0, False)
    assert result.low < 0 < result.high


def test_counts_and_difference() -> None:
    result = compare(*decided(50, 12, 2, 36))
    assert (result.images, result.only_first, result.only_second) == (100, 12, 2)
    assert result.difference == pytest.approx(0.10)
    assert result.p_value == pytest.approx(2 * sum(math.comb(14, k) for k in range(3)) / 2**14)
    assert result.separate
    assert 0 < result.low < 0.10 < result.high
    turned = compare(*(decided(50, 2, 12, 36)))
    assert (turned.difference, turned.low, turned.high) == pytest.approx((-0.10, -result.high, -result.low))


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    labels = np.ones(200, dtype=np.int64)
    held = 0
    for _ in range(1000):
        draw = random.choice(4, size=200, p=(0.7, 0.12, 0.06, 0.12))
        result = compare(np.isin(draw, (0, 1)).astype(int), np.isin(draw, (0, 2)).astype(int), labels)
        held += result.low <= 0.06 <= result.high
    assert 0.93 <= held / 1000 <= 0.975


def test_many_differences_use_the_normal_tail() -> None:
    just_exact, approximate = compare(*decided(0, 530, 469, 0)), compare(*decided(0, 531, 470, 0))
    assert just_exact.p_value == pytest.approx(approximate.p_value, rel=0.01)


def test_other_images_are_refused() -> None:
    with pytest.raises(OptionError, match="expected the same images"):
        compare(np.zeros(3), np.zeros(4), np.zeros(3))
    with pytest.raises(OptionError, match="expected the same images"):
        compare(np.zeros(0), np.zeros(0), np.zeros(0))


def test_counts_say_the_same_as_decisions() -> None:
    assert from_counts(100, 12, 2) == compare(*decided(50, 12, 2, 36))


def test_the_interval_of_a_share_stays_inside_and_holds_the_truth_as_often_as_it_says() -> None:
    assert share_interval(0, 20)[0] == 0.0
    assert share_interval(20, 20)[1] == 1.0
    low, high = share_interval(978, 1000)
    assert (low, high) == pytest.approx((0.966914, 0.985427), abs=1e-6)
    random = np.random.default_rng(0)
    hits = random.binomial(200, 0.95, 2000)
    held = [low <= 0.95 <= high for low, high in (share_interval(int(one), 200) for one in hits)]
    assert 0.93 <= np.mean(held) <= 0.975
