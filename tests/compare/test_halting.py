"""Judging which tokens halt."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from tofu_export.compare.halting import Budgets, judge_halting
from tofu_export.options import Halting


def budgets(channel: list[float], before: list[float]) -> Budgets:
    """Of one image, by a gate of slope 2 around 1, with a rest of 0.1."""
    x, had = np.array([channel]), np.array([before])
    left = had - 1 / (1 + np.exp(1 - 2 * x))
    return Budgets(had, x, np.where(left > 0.1, left, 0.0), Halting(2.0, 1.0, 0.1))


GIVEN = budgets([0.0, 3.0, 0.5, 1.597, -9.0], [1.0, 1.0, 0.55, 1.0, 0.0])


def test_the_margin_is_how_far_a_channel_is_from_where_the_token_halts() -> None:
    edge = (np.log(9) + 1) / 2  # where 0.9 of a whole budget is spent
    assert_allclose(GIVEN.margins()[0, [0, 1, 3]], [1.0, (3 - edge) / 3, (edge - 1.597) / edge], rtol=0.02)
    assert GIVEN.after[0].round(2).tolist() == [0.73, 0.0, 0.0, 0.1, 0.0]


def test_like_decisions_are_right() -> None:
    report = judge_halting(3, (GIVEN.after > 0).astype(np.float32), GIVEN, 1e-6)
    assert (report.layers, report.compared, report.flips, report.wrong) == ((3,), 4, 0, 0)


def test_a_flip_counts_by_its_margin() -> None:
    working = np.array([[1, 0, 0, 0, 0]])  # 0.1002 is left of the fourth
    report = judge_halting(0, working, GIVEN, 0.01)
    assert (report.flips, report.near_tie_flips, report.wrong) == (1, 1, 0)
    assert judge_halting(0, working, GIVEN, 1e-4).wrong == 1
    far = judge_halting(0, np.array([[1, 1, 0, 1, 0]]), GIVEN, 0.01)
    assert (far.flips, far.wrong) == (1, 1)
    assert far.largest_margin > 0.4


def test_budgets_follow_what_a_file_decides() -> None:
    working = np.array([[0, 1, 0, 1, 0]])
    followed = GIVEN.followed(working)
    assert ((followed > 0) == (working > 0)).all()
    assert followed[0, 3] == np.float32(GIVEN.after[0, 3])
    assert 0 < followed[0, 1] < 0.1


@pytest.mark.parametrize(
    ("working", "fault"),
    [
        ([[1, 0, 0, 1, 1]], "a token that had halted goes on"),
        ([[1, 0, 0, 1]], "it says of 4 tokens whether they go on, expected 5"),
        ([[1, 0, 0.5, 1, 0]], "whether a token goes on is neither 0 nor 1"),
    ],
)
def test_what_cannot_be_is_a_fault(working: list[list[float]], fault: str) -> None:
    report = judge_halting(2, np.array(working), GIVEN, 1.0)
    assert report.faults == (f"layer 2: {fault}",)
    assert report.wrong == report.compared == 4
