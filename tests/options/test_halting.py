"""The gate of halting, and what goes with it in a reduction."""

from __future__ import annotations

from typing import Any

import pytest

from tofu_export.errors import OptionError
from tofu_export.options import Halting, HaltingOptions, Method, Mode, PrunedSizes, Reduction, Selection


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scale": 0.0}, "scale is 0, expected a number over 0"),
        ({"scale": -2.0}, "scale is -2"),
        ({"center": float("nan")}, "center is nan, expected a finite number"),
        ({"center": "30"}, "center is '30'"),
        ({"least": 1.0}, "least is 1, expected a share of the budget from 0 to below 1"),
        ({"least": -0.1}, "least is -0.1"),
        ({"scale": True}, "scale is True"),
    ],
)
def test_a_gate_out_of_range_is_refused(given: dict[str, Any], message: str) -> None:
    for kind in (Halting, HaltingOptions):
        with pytest.raises(OptionError, match=f"halting {message}"):
            kind(**given)


def test_what_is_asked_for_goes_before_the_weights_entry_by_entry() -> None:
    trained = Halting(5, 60, 0.02)
    assert HaltingOptions().onto(trained) == trained
    assert HaltingOptions(least=0.1).onto(trained) == Halting(5, 60, 0.1)
    assert HaltingOptions(scale=10, center=30).onto(trained) == Halting(10, 30, 0.02)


def test_the_default_is_the_published_gate_of_the_tiny_model_and_masks_only() -> None:
    reduction = Reduction(select=Selection.HALTING)
    assert reduction.halting.onto(Halting()) == Halting(10, 30, 0.01)
    assert reduction.asked == {"r": 0}
    assert reduction.methods(4) == (Method.PRUNE,) * 4
    assert reduction.sizes_of_pruned is PrunedSizes.LOST


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"capacity": 0.9}, "capacity is for tokens that halt"),
        ({"halting": HaltingOptions(5)}, "no token halts: add select='halting'"),
        ({"select": Selection.HALTING, "pattern": "PPM"}, "pattern 'PPM' merges tokens"),
        ({"select": Selection.HALTING, "prop_attn": True}, "prop_attn does not go with select='halting'"),
        ({"select": Selection.HALTING, "mode": Mode.MLERP, "r": 4}, "never merges: leave out mode and prune_layers"),
        ({"select": Selection.HALTING, "prune_layers": 3}, "never merges: leave out mode and prune_layers"),
        ({"select": Selection.HALTING, "restore_grid": True}, "restore_grid does not go with select='halting'"),
        ({"select": Selection.HALTING, "capacity": 1.5}, "capacity is 1.5, expected a number over 0, at most 1"),
        ({"select": Selection.HALTING, "capacity": 0.9, "r": 3}, "r and capacity each say how many tokens leave"),
        ({"select": Selection.HALTING, "halting": 10}, "halting is 10, expected a HaltingOptions"),
    ],
)
def test_what_does_not_go_with_halting_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Reduction(**given)


def test_until_a_capacity_is_measured_no_token_leaves() -> None:
    asked = Reduction(select=Selection.HALTING, halting=HaltingOptions(2), capacity=0.5)
    assert asked.unmeasured == Reduction(select=Selection.HALTING, halting=HaltingOptions(2), r=0)
    plain = Reduction(r=3)
    assert plain.unmeasured is plain
