"""torch.compile takes a reduced model as one graph, which gives what the model gives eagerly."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests import families, tiny
from tofu_export import patch
from tofu_export.options import Mode, Reduction
from tofu_export.planning.plan import make_plan

PLACED = "eva-rope-cat"


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    yield
    torch._dynamo.reset()


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("model", "reduction"),
    [
        ("cls", Reduction(r=3, mode=Mode.MLERP)),
        ("cls", Reduction(r=3, mode=Mode.TOME, prop_attn=False)),
        (PLACED, Reduction(r=3, restore_grid=True)),
    ],
)
def test_a_reduced_model_is_one_graph(model: str, reduction: Reduction) -> None:
    table = tiny if model == "cls" else families
    module = patch.apply(table.build(model), make_plan(table.spec(model), reduction), name=model)
    pixels = torch.randn(2, 3, tiny.SIDE, tiny.SIDE, generator=torch.Generator().manual_seed(2))
    graphs = 0

    def compiler(graph: torch.fx.GraphModule, _: object) -> object:
        nonlocal graphs
        graphs += 1
        return graph.forward

    with torch.inference_mode():
        expected = module(pixels)
        got = torch.compile(module, backend=compiler, fullgraph=True, dynamic=False)(pixels)
    assert graphs == 1
    assert torch.equal(got, expected)
