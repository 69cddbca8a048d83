"""Original tokens, followed through reductions, against a loop over the oracle's matchings."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests import reference
from tofu_export.decisions import Decisions
from tofu_export.errors import VerificationError
from tofu_export.groups import PRUNED, Reducing, follow_groups

TOKENS = 19


def as_decisions(matchings: list[reference.Matching], step: Reducing, prefix: int, *, targets: bool) -> Decisions:
    sources, destinations = list(step.sources(prefix)), list(step.destinations(prefix))
    return Decisions(
        np.array([[sources.index(place) for place in one.kept] for one in matchings], dtype=np.int64),
        np.array([[sources.index(source) for source, _ in one.matched] for one in matchings], dtype=np.int64),
        np.array([[destinations.index(place) for _, place in one.matched] for one in matchings]) if targets else None,
    )


def expected(matchings: list[reference.Matching], methods: str, prefix: int) -> list[int]:
    """For one image: where each original token is, from the definition."""
    rows = []
    for original in range(TOKENS):
        here = original
        for matching, method in zip(matchings, methods, strict=True):
            joins = dict(matching.matched)
            if here in joins and method == "P":
                here = PRUNED
            if here == PRUNED:
                break
            here = [*range(prefix), *matching.kept, *matching.destinations].index(joins.get(here, here))
        rows.append(here)
    return rows


@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
@pytest.mark.parametrize("methods", ["PPM", "MPM", "MMP", "PPP", "MMM"])
def test_groups_are_those_of_the_definition(prefix: int, methods: str) -> None:
    random = np.random.default_rng(prefix)
    groups = np.tile(np.arange(TOKENS), (2, 1))
    tokens, history = TOKENS, [[], []]
    for layer, method in enumerate(methods):
        step = Reducing(layer, "prune" if method == "P" else "mlerp", tokens, 2)
        matchings = [reference.match(random.normal(size=(tokens, 4)), prefix, 2) for _ in range(2)]
        state = follow_groups(groups, step, as_decisions(matchings, step, prefix, targets=method == "M"), prefix)
        groups, tokens = state.groups, step.tokens_out
        for image, matching in enumerate(matchings):
            history[image].append(matching)
            assert groups[image].tolist() == expected(history[image], methods[: layer + 1], prefix)
        assert set(groups.ravel().tolist()) - {PRUNED} == set(range(tokens))  # every row stands for somebody


def test_a_group_is_pruned_with_its_destination() -> None:
    """Token 2 joins token 1; token 1, a source by then, is dropped: both are gone, and so they stay."""
    groups = np.arange(5)[None]
    first = follow_groups(groups, Reducing(0, "mlerp", 5, 1), matching([0, 2], [1], [0]), 0)
    assert first.groups.tolist() == [[0, 2, 2, 3, 1]]  # rows: 0, 4, then destinations 1 and 3
    second = follow_groups(first.groups, Reducing(1, "prune", 4, 1), matching([0], [1], None), 0)
    assert second.groups.tolist() == [[0, PRUNED, PRUNED, 2, 1]]
    third = follow_groups(second.groups, Reducing(2, "prune", 3, 1), matching([0], [1], None), 0)
    assert third.groups[0, 1:3].tolist() == [PRUNED, PRUNED]


@pytest.mark.parametrize(
    ("kept", "matched", "target", "method", "message"),
    [
        ([0, 1], [1], [0], "mlerp", "not a partition"),
        ([2, 0], [1], [0], "mlerp", "ascending"),
        ([0, 2], [1], [2], "mlerp", "not a destination"),
        ([0, 2], [1], None, "average", "nothing says into what"),
        ([0], [1, 2], [0, 0], "mlerp", "2 sources leave, 1 are planned"),
    ],
)
def test_impossible_decisions_are_refused(
    kept: list[int], matched: list[int], target: list[int] | None, method: str, message: str
) -> None:
    with pytest.raises(VerificationError, match=rf"layer 3 decides the impossible: .*{message}"):
        follow_groups(np.arange(5)[None], Reducing(3, method, 5, 1), matching(kept, matched, target), 0)


def test_sources_and_destinations_are_the_oracles() -> None:
    for prefix, tokens in itertools.product(range(6), range(8, 12)):
        one = reference.match(np.eye(tokens), prefix, 1)
        step = Reducing(0, "prune", tokens, 1)
        assert sorted([*one.kept, *(source for source, _ in one.matched)]) == list(step.sources(prefix))
        assert one.destinations == list(step.destinations(prefix))


def matching(kept: list[int], matched: list[int], target: list[int] | None) -> Decisions:
    return Decisions(np.array([kept]), np.array([matched]), None if target is None else np.array([target]))
