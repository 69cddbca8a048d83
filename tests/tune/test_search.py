"""The search on losses that are known, and that it goes on where it was killed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tune.spaces import macs, space
from tofu_export.errors import OptionError
from tofu_export.tune.search import Found, _bent, patterns, schedules, search
from tofu_export.tune.space import Candidate
from tofu_export.tune.state import StateFile

LIMIT = macs((4, 4, 4, 3))
FIRST = Candidate.of("PPMM", (4, 4, 4, 3))
WANTED = ("APMA", (2, 9, 0, 6))


def loss(candidate: Candidate) -> float:
    """How far a candidate is from one that is wanted."""
    wrong = sum(1 for got, want in zip(candidate.pattern, WANTED[0], strict=True) if got != want)
    return wrong + 0.1 * sum(abs(got - want) for got, want in zip(candidate.r, WANTED[1], strict=True))


def run(measure: Callable[[Candidate], float] = loss, evaluations: int = 150, seed: int = 0) -> list[Found]:
    return search(space(LIMIT), FIRST, measure, evaluations=evaluations, seed=seed)


def test_it_improves_on_the_plan_to_beat_within_the_budget() -> None:
    found = run()
    assert found[0].loss < 0.5 * loss(FIRST)
    assert all(macs(entry.candidate.r) <= LIMIT for entry in found)
    assert [entry.loss for entry in found] == sorted(entry.loss for entry in found)
    assert FIRST in [entry.candidate for entry in found]


def test_small_changes_help_beyond_the_table() -> None:
    assert run(evaluations=150)[0].loss < run(evaluations=15)[0].loss


def test_sizes_are_searched_too() -> None:
    both = replace(space(LIMIT), prop_attn=(True, False))
    found = search(both, FIRST, lambda one: loss(one) + one.prop_attn, evaluations=150, seed=0)
    assert not found[0].candidate.prop_attn
    assert {entry.candidate.prop_attn for entry in run()} == {True}


def test_a_schedule_bends_around_a_knot() -> None:
    assert _bent([10] * 10, 0, 2.0) == [20, 17, 13, 10, 10, 10, 10, 10, 10, 10]
    assert _bent([10] * 10, 1, 0.5) == [10, 8, 7, 5, 7, 8, 10, 10, 10, 10]
    assert _bent([10], 3, 2.0) == [10]


def test_no_plan_is_tried_twice_and_the_number_holds() -> None:
    asked: list[Candidate] = []
    run(lambda candidate: asked.append(candidate) or loss(candidate), evaluations=60)  # type: ignore[func-returns-value]
    assert asked[0] == FIRST
    assert len(asked) == len(set(asked)) == 60


def test_the_seed_decides() -> None:
    assert run(seed=3) == run(seed=3)
    assert run(seed=3) != run(seed=4)


def test_plain_patterns_and_schedules() -> None:
    assert "PPPPPPMMMMMM" in patterns(12, "PAM")
    assert "PPPPPPMMMMMM" not in patterns(12, "PA")
    assert patterns(3, "M") == ["MMM"]
    assert all(len(shares) == 5 and max(shares) == 1.0 for shares in schedules(5).values())


class TestState:
    def test_a_run_that_was_killed_goes_on(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "s.jsonl"
        measured: list[Candidate] = []

        def measure(candidate: Candidate, state: StateFile, most: int) -> float:
            known = state.find(candidate)
            if known is not None:
                return known
            if len(measured) == most:
                raise KeyboardInterrupt
            measured.append(candidate)
            state.add(candidate, loss(candidate))
            return loss(candidate)

        state = StateFile(path, {"seed": 0})
        with pytest.raises(KeyboardInterrupt):
            run(lambda candidate: measure(candidate, state, 20), evaluations=40)
        with path.open("a") as file:
            file.write('{"pattern": "PP')  # killed while it wrote
        again = StateFile(path, {"seed": 0})
        assert len(again) == 20
        assert run(lambda candidate: measure(candidate, again, 40), evaluations=40) == run(evaluations=40)
        assert len(measured) == len(set(measured)) == 40
        assert all(json.loads(line) for line in path.read_text().splitlines())

    def test_other_settings_are_refused(self, tmp_path: Path) -> None:
        StateFile(tmp_path / "s", {"seed": 0, "model": "a"})
        with pytest.raises(OptionError, match=r"was begun with other settings \(model, objective\)"):
            StateFile(tmp_path / "s", {"seed": 0, "model": "b", "objective": "kl"})

    @pytest.mark.parametrize("text", ["no json\n", "[]\n", '{"settings": {}}\n{"pattern": 3}\n', "3\n"])
    def test_another_file_is_refused_and_kept(self, text: str, tmp_path: Path) -> None:
        (tmp_path / "s").write_text(text)
        with pytest.raises(OptionError, match="is not a state file of tune"):
            StateFile(tmp_path / "s", {})
        assert (tmp_path / "s").read_text() == text
