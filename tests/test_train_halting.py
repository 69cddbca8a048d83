"""The training of halting: its losses are what the paper says, and they make tokens halt earlier."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

from tests import tiny
from tests.imports import loaded_scripts
from tofu_export import patch
from tofu_export.options import Halting, HaltingOptions, Reduction, Selection
from tofu_export.patch.halting import Spending

GATE = Halting(3, 1, 0.2)


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    pytest.importorskip("mlxtend")
    with loaded_scripts("examples", "train_demo_vit", "finetune", "train_selectors", "train_halting") as modules:
        yield modules["train_halting"]


def model() -> torch.nn.Module:
    return tiny.reduced("cls", Reduction(select=Selection.HALTING, halting=HaltingOptions.of(GATE)))


def test_pondering_is_blocks_and_remainder_of_each_patch(script: ModuleType) -> None:
    seen = script.Pondering()
    with torch.no_grad(), patch.observe(seen):
        model()(torch.from_numpy(tiny.pixels(2)))
    costs = []
    for image in range(2):
        for token in range(1, 17):
            budget, cost = 1.0, 0.0
            for spending in seen.seen:
                cost += 1
                left = budget - float(spending.score[image, token, 0])
                if left <= GATE.least:
                    break
                budget = left
            else:
                cost += 1
            costs.append(cost + budget)
    assert float(seen.ponder()) == pytest.approx(sum(costs) / len(costs), abs=1e-5)


def test_the_divergence_is_least_where_scores_peak_at_the_depth(script: ModuleType) -> None:
    def diverging(scores: list[float]) -> float:
        seen = script.Pondering()
        for score in scores:
            rows = torch.full((1, 3, 1), score)
            seen.seen.append(Spending(GATE, rows, rows, rows, rows))
        return float(seen.divergence(2.0))

    peaked = (-0.5 * (torch.arange(1, 6) - 2.0).square()).softmax(dim=0).tolist()
    assert diverging(peaked) == pytest.approx(0, abs=2e-2)  # shares under 1 % count as 1 %
    assert diverging(peaked) < diverging([0.2] * 5) < diverging([0.01, 0.01, 0.01, 0.01, 0.9])


def test_training_makes_tokens_halt_earlier(script: ModuleType) -> None:
    def depth() -> float:
        seen = script.Pondering()
        with torch.no_grad(), patch.observe(seen):
            trained.eval()(images)
        return float(seen.ponder())

    trained, images = model(), torch.from_numpy(tiny.pixels(32))
    labels = torch.arange(32) % tiny.CLASSES
    before = depth()
    script.train(trained, images, labels, 12, 3e-3, 0, lambda seen: seen.ponder())
    assert depth() < before - 0.1
