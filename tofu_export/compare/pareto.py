"""Pareto front of cost and quality."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

__all__ = ["pareto_front"]

T = TypeVar("T")


def pareto_front(items: Iterable[T], cost: Callable[[T], float], quality: Callable[[T], float]) -> list[T]:
    """Return the items that no other dominates: at least as good and as cheap, and better in one of the two.

    Args:
        items: items to compare.
        cost: cost of an item; less is better.
        quality: quality of an item; more is better.

    Returns:
        The cheapest first; items that are equal in both stay together, in their order.
    """
    front: list[T] = []
    for item in sorted(items, key=lambda one: (cost(one), -quality(one))):
        better = not front or quality(item) > quality(front[-1])
        if better or (cost(item), quality(item)) == (cost(front[-1]), quality(front[-1])):
            front.append(item)
    return front
