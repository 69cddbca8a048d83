"""The front of cost and quality, against its definition."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tofu_export.compare.pareto import pareto_front

Point = tuple[int, int]


def beats(one: Point, other: Point) -> bool:
    return one[0] <= other[0] and one[1] >= other[1] and one != other


def front(points: list[Point]) -> list[Point]:
    return pareto_front(points, lambda one: one[0], lambda one: one[1])


def test_by_hand() -> None:
    assert front([(4, 10), (1, 5), (2, 8), (2, 9), (3, 9)]) == [(1, 5), (2, 9), (4, 10)]
    assert front([]) == []


def test_equals_are_both_on_it_in_their_order() -> None:
    named = [("a", 1), ("b", 1), ("c", 2)]
    assert pareto_front(named, lambda one: one[1], lambda one: 3) == [("a", 1), ("b", 1)]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
def test_it_is_all_that_nothing_beats(points: list[Point]) -> None:
    assert front(points) == sorted(one for one in points if not any(beats(other, one) for other in points))
