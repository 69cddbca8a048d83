"""Original tokens, followed through reductions, against a loop over the oracle's matchings."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests import reference
from tofu_export.compare.decisions import Decisions
from tofu_export.compare.groups import PRUNED, Reducing, follow_groups, follow_layers, from_patches, of_patches
from tofu_export.errors import VerificationError

TOKENS = 19


def as_decisions(matchings: list[reference.Matching], step: Reducing, prefix: int, *, targets: bool) -> Decisions:
    roles = step.roles(prefix)
    sources, destinations = list(roles.sources), list(roles.destinations)
    return Decisions(
        np.array([[sources.index(place) for place in one.kept] for one in matchings], dtype=np.int64),
        np.array([[sources.index(source) for source, _ in one.matched] for one in matchings], dtype=np.int64),
        np.array([[destinations.index(place) for _, place in one.matched] for one in matchings]) if targets else None,
    )


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
            done = ["prune" if letter == "P" else "mlerp" for letter in methods[: layer + 1]]
            assert groups[image].tolist() == reference.groups(history[image], done, prefix, TOKENS)
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


def test_layers_in_a_row_are_one_after_the_other() -> None:
    steps = [Reducing(0, "mlerp", 5, 1), Reducing(1, "prune", 4, 1), Reducing(2, "prune", 3, 1)]
    decided = {0: matching([0, 2], [1], [0]), 1: matching([0], [1], None)}
    states = follow_layers(np.arange(5)[None], steps, decided, 0)
    assert [state.step.layer for state in states] == [0, 1]  # the last one decided nothing
    assert states[-1].groups.tolist() == [[0, PRUNED, PRUNED, 2, 1]]
    assert follow_layers(np.arange(5)[None], [], {}, 0) == []


@pytest.mark.parametrize(("prefix", "joined"), [(0, 0), (0, 1), (2, 0)])
def test_patches_are_stated_without_the_prefix_and_found_again(prefix: int, joined: int) -> None:
    groups = np.array([[*range(prefix), *(prefix + row for row in (1, 0, 2, 1))], [*range(prefix), prefix, PRUNED,
                       prefix + 2, prefix + 1]])  # fmt: skip
    stated = of_patches(groups, prefix, joined)
    assert stated.shape == (2, 4)
    assert stated[1, 1] == PRUNED
    assert stated[0, 1] == prefix + joined  # the row of the whole sequence
    found = from_patches(stated, prefix, prefix + 3)
    assert found is not None
    assert found.tolist() == groups.tolist()


@pytest.mark.parametrize("patches", [[0, 1, 1, 0], [0, 1, 3, 1], [0, 1, 2, 3], [-1] * 4, [-2, -3, -4, -1]], ids=str)
def test_what_is_no_map_onto_three_tokens_is_told(patches: list[int]) -> None:
    assert from_patches(np.array([[0, 1, 2, PRUNED]]), 0, 3) is not None
    assert from_patches(np.array([[0, 1, 2, PRUNED], patches]), 0, 3) is None
    assert from_patches(np.array([[0, 1, 2, PRUNED]]), 1, 4) is None  # the first row is the prefix's


def test_sources_and_destinations_are_the_oracles() -> None:
    for prefix, tokens in itertools.product(range(6), range(8, 12)):
        one = reference.match(np.eye(tokens), prefix, 1)
        roles = Reducing(0, "prune", tokens, 1).roles(prefix)
        assert sorted([*one.kept, *(source for source, _ in one.matched)]) == list(roles.sources)
        assert one.destinations == list(roles.destinations)


def matching(kept: list[int], matched: list[int], target: list[int] | None) -> Decisions:
    return Decisions(np.array([kept]), np.array([matched]), None if target is None else np.array([target]))
