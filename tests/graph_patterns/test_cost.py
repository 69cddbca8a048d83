"""What a graph costs, against the plan that it was made from, which counts layer norms and all tokens."""

from __future__ import annotations

import pytest

from tests import tiny
from tofu_export.graph_patterns.cost import count_macs
from tofu_export.graph_patterns.lowering import MACS
from tofu_export.options import BatchRange, Reduction

WIDTH, HIDDEN = 24, 48


def norms(tokens: list[tuple[int, int]]) -> int:
    """What the plan counts for the norms of a model: 5 per element before each half of a block."""
    return sum(5 * WIDTH * (before + after) for before, after in tokens)


@pytest.mark.parametrize(
    ("reduction", "tokens"),
    [(Reduction(r=0), [(16, 16)] * 3), (Reduction(r=(3, 2, 4), pattern="PAM"), [(16, 13), (13, 11), (11, 7)])],
)
def test_a_canonical_graph_costs_what_the_plan_says(reduction: Reduction, tokens: list[tuple[int, int]]) -> None:
    """Average pooling: all tokens count. The last norm is counted for each token, or once where it follows pooling."""
    plan = tiny.plan_of("avg", reduction)
    rest = plan.macs_reduced - norms(tokens) - count_macs(tiny.canonical("avg", reduction))
    assert rest in (5 * WIDTH * tokens[-1][1], 5 * WIDTH)


def test_a_fixed_batch_counts_for_one_image() -> None:
    reduction = Reduction(r=2)
    fixed = tiny.canonical("avg", reduction, batch=BatchRange(3, 3, 3))
    assert count_macs(fixed) == count_macs(tiny.canonical("avg", reduction))


def test_what_a_class_token_does_not_read_is_not_counted() -> None:
    """In the last block: queries and keys' products, projection and MLP of all tokens but the class token."""
    reduction = Reduction(r=0)
    full, lowered = count_macs(tiny.canonical("cls", reduction)), tiny.lowered("cls", reduction).meta[MACS]
    assert full - lowered == 16 * (2 * 17 * WIDTH + WIDTH * WIDTH + 2 * WIDTH * HIDDEN)
