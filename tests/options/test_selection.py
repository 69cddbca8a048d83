"""Roles of tokens, by selection: what all of them keep to, and the places of each."""

from __future__ import annotations

import hashlib
import itertools

import pytest

from tofu_export.errors import OptionError
from tofu_export.options import PrunedSizes, Reduction, Roles, Selection, energy_margin


def all_roles(select: Selection) -> list[tuple[int, Roles]]:
    return [
        (prefix, select.roles(prefix + patches, prefix, removed, 2))
        for prefix, patches in itertools.product((0, 1, 2, 5), (2, 3, 8, 13))
        for removed in range(1, patches // 2 + 1)
    ]


@pytest.mark.parametrize("select", Selection)
def test_roles_are_ascending_places_behind_the_prefix(select: Selection) -> None:
    for prefix, roles in all_roles(select):
        places = [*roles.sources, *roles.destinations]
        assert sorted(places) == list(range(prefix, roles.tokens))
        assert list(roles.sources) == sorted(roles.sources)
        assert list(roles.destinations) == sorted(roles.destinations)
        assert roles.staying >= 0
        assert roles.joinable >= 1
        assert roles.first_row + roles.joinable == roles.tokens - roles.removed
        assert roles.pooled is not bool(roles.destinations)


@pytest.mark.parametrize("prefix", range(6))
def test_bipartite_takes_every_second_place_of_the_whole_sequence(prefix: int) -> None:
    roles = Selection.BIPARTITE.roles(prefix + 9, prefix, 3, 0)
    assert all(place % 2 == 0 for place in roles.sources)
    assert all(place % 2 == 1 for place in roles.destinations)


def test_strided_places_are_evenly_spaced() -> None:
    assert Selection.STRIDED.roles(13, 1, 4, 7).sources == (1, 4, 7, 10)
    assert Selection.STRIDED.roles(11, 0, 3, 0).sources == (0, 3, 7)


def test_random_places_differ_by_layer_and_are_always_the_same() -> None:
    drawn = [Selection.RANDOM.roles(20, 1, 4, layer).sources for layer in range(6)]
    assert len(set(drawn)) > 1
    for layer, places in enumerate(drawn):
        lots = {place: hashlib.sha256(f"{layer} {place}".encode()).hexdigest() for place in range(1, 20)}
        assert sorted(lots, key=lots.__getitem__)[:4] == sorted(places, key=lots.__getitem__)


def test_random_places_are_spread_over_the_sequence() -> None:
    taken = [place for layer in range(200) for place in Selection.RANDOM.roles(11, 1, 3, layer).sources]
    counts = [taken.count(place) for place in range(1, 11)]
    assert min(counts) > 35
    assert max(counts) < 85  # 60 each


def test_the_margin_falls_from_the_first_layer_on() -> None:
    assert [round(energy_margin(layer, 12), 3) for layer in (0, 6, 11)] == [0.9, 0.45, 0.075]


def test_sizes_of_tokens_that_resemble_no_destination_are_lost() -> None:
    for select in Selection:
        lost = select in (Selection.CLASS_ATTENTION, Selection.PREDICTOR, Selection.HALTING)
        expected = PrunedSizes.LOST if lost else PrunedSizes.TAKE_OVER
        assert Reduction(select=select).sizes_of_pruned is expected


def test_a_word_is_no_selection() -> None:
    with pytest.raises(OptionError, match="select is 'energy', expected a Selection"):
        Reduction(select="energy")  # type: ignore[arg-type]
