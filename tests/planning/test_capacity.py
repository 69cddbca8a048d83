"""Places for tokens that halt, and plans with them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests import tiny
from tofu_export.errors import OptionError, UnsupportedModelError
from tofu_export.options import Halting, HaltingOptions, Method, Reduction, Selection
from tofu_export.planning.capacity import leaving_for
from tofu_export.planning.plan import make_plan
from tofu_export.planning.plan_file import PlanFile, write_plan_file

GATE = Halting(3, 1, 0.2)


def halting(**given: object) -> Reduction:
    return Reduction(select=Selection.HALTING, halting=HaltingOptions.of(GATE), **given)  # type: ignore[arg-type]


WORKING = [[16, 9, 4, 2], [16, 12, 3, 3], [16, 5, 5, 0], [16, 16, 16, 16]]


@pytest.mark.parametrize(
    ("share", "places"),
    [
        (1.0, [17, 17, 17, 17]),
        (0.75, [17, 13, 6, 4]),
        (0.5, [17, 10, 6, 3]),
        (0.26, [17, 10, 6, 3]),
        (0.01, [17, 6, 6, 2]),
    ],
)
def test_all_tokens_of_that_share_of_the_images_have_a_place(share: float, places: list[int]) -> None:
    leaving = leaving_for(WORKING, share, 17, 1)
    assert [17 - sum(leaving[: block + 1]) for block in range(4)] == places
    fitting = sum(all(1 + need <= place for need, place in zip(row, places, strict=True)) for row in WORKING)
    assert fitting >= share * len(WORKING)


def test_a_block_keeps_a_place_beside_the_prefix_where_all_have_halted() -> None:
    assert leaving_for([[8, 0, 0]], 1.0, 10, 2) == (0, 7, 0)


def test_nothing_is_measured_on_no_image() -> None:
    with pytest.raises(OptionError, match="there are none: give some with --images"):
        leaving_for([], 1.0, 17, 1)


def test_a_plan_needs_a_measured_capacity() -> None:
    with pytest.raises(OptionError, match="capacity is measured on images"):
        tiny.plan_of("cls", halting(capacity=1.0))


def test_no_token_leaves_before_the_first_block_and_all_but_one_may_later() -> None:
    plan = tiny.plan_of("cls", halting(r=20))
    assert [layer.removed for layer in plan.layers] == [0, 15, 0]
    assert plan.counts_over_capacity
    assert not plan.prop_attn
    assert not tiny.plan_of("cls", halting()).counts_over_capacity
    assert not tiny.plan_of("cls", Reduction(r=2)).counts_over_capacity


def test_what_left_before_a_block_costs_nothing_in_it() -> None:
    spec = tiny.spec("cls")
    plan = make_plan(spec, halting(r=(0, 7, 4)))
    expected = spec.stem_macs + spec.tail_fixed + 6 * spec.tail_token
    for cost, tokens in zip(spec.blocks, (17, 10, 6), strict=True):
        expected += (cost.attend_token + cost.feed_token) * tokens + cost.attend_pair * tokens**2
    assert plan.macs_reduced == expected
    assert tiny.plan_of("cls", halting()).macs_reduced == plan.macs_full


def test_a_budget_finds_places() -> None:
    plan = tiny.plan_of("cls", halting(speedup=1.5))
    assert plan.flop_ratio >= 1.5
    assert plan.layers[0].removed == 0


@pytest.mark.parametrize("name", ["avg", "map"])
def test_models_without_a_class_token_are_refused(name: str) -> None:
    with pytest.raises(UnsupportedModelError, match="no class token in its blocks, which halting needs"):
        tiny.plan_of(name, halting())


def test_a_plan_file_keeps_the_gate(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    plan = tiny.plan_of("cls", halting(r=(0, 7, 4)))
    write_plan_file(path, tiny.spec("cls"), plan, {})
    read = PlanFile.read(path)
    assert read.halting == HaltingOptions.of(GATE)
    again = make_plan(tiny.spec("cls"), read.reduction())
    assert again.layers == plan.layers
    assert again.halting == GATE
    assert all(layer.method is Method.PRUNE for layer in again.layers)


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ([3], "halting is [3], expected an object with some of center, least, scale"),
        ({"scale": 0}, "halting scale is 0"),
    ],
)
def test_a_wrong_gate_in_a_plan_file_is_refused(tmp_path: Path, gate: object, message: str) -> None:
    path = tmp_path / "plan.json"
    write_plan_file(path, tiny.spec("cls"), tiny.plan_of("cls", halting()), {})
    path.write_text(json.dumps({**json.loads(path.read_text()), "halting": gate}))
    with pytest.raises(OptionError, match=re.escape(message)):
        PlanFile.read(path)


def test_the_entry_of_a_plan_has_its_gate_only_if_tokens_halt() -> None:
    assert tiny.plan_of("cls", halting()).to_dict()["halting"] == {"scale": 3.0, "center": 1.0, "least": 0.2}
    assert "halting" not in tiny.plan_of("cls", Reduction(r=2)).to_dict()
