"""Names of what a file outputs."""

from __future__ import annotations

import pytest

from tests import tiny
from tofu_export.options import HaltingOptions, OutputKind, Reduction, Selection
from tofu_export.planning.outputs import names_of_outputs


def test_without_a_plan_the_kind_decides() -> None:
    assert names_of_outputs(OutputKind.LOGITS, None) == ("logits",)
    assert names_of_outputs(OutputKind.TOKENS, None) == ("tokens", "token_map")


@pytest.mark.parametrize(("r", "more"), [((0, 4, 3), ("tokens_over_capacity",)), ((0, 0, 0), ())])
def test_what_a_plan_and_a_token_map_add(r: tuple[int, ...], more: tuple[str, ...]) -> None:
    plan = tiny.plan_of("cls", Reduction(r=r, select=Selection.HALTING, halting=HaltingOptions(3, 1, 0.2)))
    assert names_of_outputs(OutputKind.FEATURES, plan) == ("features", *more)
    assert names_of_outputs(OutputKind.FEATURES, plan, token_map=True) == ("features", *more, "patch_groups")


def test_tokens_that_merge_are_not_counted() -> None:
    assert names_of_outputs(OutputKind.GRID, tiny.plan_of("cls", Reduction(r=2))) == ("grid",)
