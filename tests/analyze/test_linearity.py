"""Equation 8: known functions, an oracle in numpy, and a model of which the MLP is linear."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests import families, tiny
from tests.reference import match as oracle_match
from tofu_export.analyze.linearity import functional_linearity, interpolate
from tofu_export.analyze.norms import block_norms, merged_norms
from tofu_export.analyze.pairs import LayerView, views
from tofu_export.analyze.run import linearity_of
from tofu_export.options import Method, Reduction

R = 3


def oracle(outputs: NDArray[np.float64]) -> float:
    """Equation 8 for one pair, from f at the points of its segment [K+1, C]."""
    length = 0.0
    for here, there in pairwise(outputs):
        length += math.sqrt(float(((there - here) ** 2).sum()))
    return math.sqrt(float(((outputs[-1] - outputs[0]) ** 2).sum())) / length


def tokens(count: int = 5, channels: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(count, channels, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_points_of_a_segment() -> None:
    first, second = tokens(seed=0), tokens(seed=1)
    points = interpolate(first, second, 4)
    assert points.shape == (5, 5, 4)
    assert torch.equal(points[:, 0], first)
    assert torch.equal(points[:, 4], second)
    assert torch.allclose(points[:, 1], 0.75 * first + 0.25 * second)


def test_a_linear_function_has_1() -> None:
    matrix, shift = tokens(4, 6, seed=2), tokens(1, 6, seed=3)
    path = interpolate(tokens(seed=0), tokens(seed=1), 7) @ matrix + shift
    assert functional_linearity(path) == pytest.approx(torch.ones(5), abs=1e-12)


def test_a_circle() -> None:
    """Half a circle: its diameter over a chain of K chords."""
    angle = torch.linspace(0, math.pi, 9, dtype=torch.float64)
    path = torch.stack([angle.cos(), angle.sin()], dim=-1).unsqueeze(0)
    assert functional_linearity(path).item() == pytest.approx(2 / (8 * 2 * math.sin(math.pi / 16)))


def test_there_and_back_is_0_and_no_way_at_all_is_unknown() -> None:
    line = torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1)
    assert functional_linearity(line).item() == 0.0
    assert functional_linearity(torch.ones(1, 3, 2)).isnan().all()


def test_the_oracle_agrees() -> None:
    path = torch.sin(3 * interpolate(tokens(seed=0), tokens(seed=1), 10))
    expected = [oracle(rows) for rows in path.numpy()]
    assert functional_linearity(path).numpy() == pytest.approx(expected, abs=1e-12)
    assert min(expected) < 0.95


def first_view(name: str = "cls", layer: int = 1, model: nn.Module | None = None) -> LayerView:
    pixels = torch.from_numpy(tiny.pixels(2, seed=1))
    return list(views(model or tiny.build(name), pixels, R))[layer]


@pytest.mark.parametrize("name", ["cls", "registers", "qk-norm", "avg"])
def test_the_mlp_of_a_model(name: str) -> None:
    """f written out by hand from the weights: norm, two layers, GELU, layer scale."""
    view = first_view(name)
    state = tiny.weights(tiny.build(name))
    at = "blocks.1."

    def branch(x: NDArray[np.float64]) -> NDArray[np.float64]:
        centred = x - x.mean(-1, keepdims=True)
        normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        normed = normed * state[f"{at}norm2.weight"] + state[f"{at}norm2.bias"]
        hidden = normed @ state[f"{at}mlp.fc1.weight"].T + state[f"{at}mlp.fc1.bias"]
        hidden = np.array([value * 0.5 * (1 + math.erf(value / math.sqrt(2))) for value in hidden.ravel()]).reshape(
            hidden.shape
        )
        out = hidden @ state[f"{at}mlp.fc2.weight"].T + state[f"{at}mlp.fc2.bias"]
        return out * state.get(f"{at}ls2.gamma", 1.0)  # type: ignore[no-any-return]

    steps = 6
    found = linearity_of(view, steps)
    number = 0
    for image in range(2):
        for source, target in zip(view.source_rows[image].tolist(), view.target_rows[image].tolist(), strict=True):
            first, second = view.attended[image, source].numpy(), view.attended[image, target].numpy()
            points = np.stack([first + step / steps * (second - first) for step in range(steps + 1)])
            assert found["mlp"][number].item() == pytest.approx(oracle(branch(points)), abs=1e-9)
            assert found["mlp_residual"][number].item() == pytest.approx(oracle(points + branch(points)), abs=1e-9)
            number += 1
    assert number == len(found["mlp"]) == 2 * R
    assert found["mlp"].max() < 0.9999  # else the oracle would have nothing to tell apart


def test_pairs_are_those_of_the_algorithm() -> None:
    """Sources and destinations against the slow oracle's, on keys computed by hand."""
    view = first_view("cls")
    model = tiny.build("cls")
    attention = model.blocks[1].attn  # type: ignore[index, union-attr]
    for image in range(2):
        normed = model.blocks[1].norm1(view.tokens[image].float())  # type: ignore[index, union-attr, operator]
        keys = attention.qkv(normed)[:, 24:48].reshape(-1, tiny.HEADS, 8).mean(1).numpy()  # type: ignore[union-attr, operator]
        expected = oracle_match(keys.astype(np.float64), prefix=1, r=R).matched
        found = zip(view.source_rows[image].tolist(), view.target_rows[image].tolist(), strict=True)
        assert set(found) == set(expected)


def test_attention_moves_sources_together() -> None:
    """Read at each source while all of them move; written out with the block's own attention."""
    view, model, steps = first_view("cls"), tiny.build("cls").double(), 4
    block = model.blocks[1]  # type: ignore[index]
    paths = []
    for step in range(steps + 1):
        moved = view.tokens.clone()
        for image in range(2):
            for source, target in zip(view.source_rows[image], view.target_rows[image], strict=True):
                moved[image, source] += step / steps * (view.tokens[image, target] - view.tokens[image, source])
        out = block.attn(block.norm1(moved))  # type: ignore[union-attr, operator]
        paths.append(torch.stack([out[image, view.source_rows[image]] for image in range(2)]).flatten(0, 1))
    expected = [oracle(rows.numpy()) for rows in torch.stack(paths, dim=1)]
    assert linearity_of(view, steps)["attention"].numpy() == pytest.approx(expected, abs=1e-9)


def test_a_linear_mlp_has_1() -> None:
    model = tiny.build("cls")
    for block in model.blocks:  # type: ignore[union-attr]
        block.mlp.act = nn.Identity()  # type: ignore[union-attr]
        block.norm2 = nn.Identity()  # type: ignore[union-attr, assignment]
    assert linearity_of(first_view(model=model), 5)["mlp"].numpy() == pytest.approx(np.ones(2 * R), abs=1e-9)


def test_views_follow_the_model() -> None:
    model = tiny.build("registers")
    found = list(views(model, torch.from_numpy(tiny.pixels(2, seed=1)), R))
    assert [view.layer for view in found] == [0, 1, 2]
    for before, after in pairwise(found):
        assert before.halves.feed is not None
        assert torch.allclose(before.halves.feed(before.attended), after.tokens, atol=1e-4)
    assert all(rows.min() >= 5 for view in found for rows in (view.source_rows, view.target_rows))


@pytest.mark.parametrize("name", sorted(families.FAMILIES))
def test_every_kind_of_block(name: str) -> None:
    """In float64 the halves give what upstream's block gives in float32, and every pair has its linearity."""
    model, pixels = families.build(name), torch.from_numpy(tiny.pixels(2, seed=1))
    found = list(views(model, pixels, 2, name))
    for before, after in pairwise(found):
        fed = before.attended if before.halves.feed is None else before.halves.feed(before.attended)
        assert torch.allclose(fed, after.tokens, rtol=1e-3, atol=1e-3)
    ratios = linearity_of(found[0], 3)
    assert ("mlp" in ratios) == (not name.endswith("scaling"))
    for ratio in ratios.values():
        assert ratio.shape == (4,)
        assert ((ratio > 0) & (ratio <= 1)).all()


def test_merged_tokens_and_their_group() -> None:
    view = first_view("cls")
    assert merged_norms(view, Method.MLERP).numpy() == pytest.approx(1.0, abs=1e-6)
    expected = []
    for image in range(2):
        groups: dict[int, list[int]] = {}
        for source, target in zip(view.source_rows[image].tolist(), view.target_rows[image].tolist(), strict=True):
            groups.setdefault(target, [target]).append(source)
        for target in sorted(groups):
            members = view.attended[image, groups[target]].numpy()
            expected.append(np.linalg.norm(members.mean(0)) / np.linalg.norm(members, axis=1).max())
    assert merged_norms(view, Method.AVERAGE).numpy() == pytest.approx(expected, abs=1e-9)
    assert max(expected) < 1.0


def test_lengths_behind_each_block() -> None:
    pixels = torch.from_numpy(tiny.pixels(2))
    model = tiny.reduced("registers", Reduction(r=R, pattern="MMM"))
    found = block_norms(model, pixels, prefix=5)
    assert [rows.shape[1] for rows in found] == [16 - R, 16 - 2 * R, 16 - 2 * R - 3]
    full = block_norms(tiny.build("registers"), pixels, prefix=5)
    grids = tiny.build("registers").forward_intermediates(  # type: ignore[operator]
        pixels, norm=False, output_fmt="NLC", intermediates_only=True
    )
    for rows, expected in zip(full, grids, strict=True):
        assert torch.allclose(rows, expected.norm(dim=-1))
