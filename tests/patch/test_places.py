"""Positions against loops in numpy: rotations and biases looked up token by token, whole models in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from tests import families, reference, tiny
from tofu_export import patch
from tofu_export.errors import UnsupportedModelError
from tofu_export.options import Reduction
from tofu_export.patch.places import all_positions, place_bias, place_rope
from tofu_export.planning.plan import make_plan

Array = NDArray[np.float64]

GRID, HEADS, DIM = 4, 4, 8


def some_positions(prefix: int) -> torch.Tensor:
    """Two images' worth, each with the prefix and six of the 16 patches, in no order."""
    patches = np.random.default_rng(prefix).permuted(np.tile(np.arange(16), (2, 1)), axis=1)[:, :6] + prefix
    front = np.tile(np.arange(prefix), (2, 1))
    return torch.from_numpy(np.concatenate([front, patches], axis=1)[..., None])


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("mixed", [False, True])
def test_rotary_rows_are_those_of_the_tokens(prefix: int, mixed: bool) -> None:
    rope = torch.randn(3, 16, 8) if mixed else torch.randn(16, 8)
    positions = some_positions(prefix)
    placed = place_rope(rope, positions, prefix)
    assert placed.shape == (2, 3 if mixed else 1, 6, 8)
    for image in range(2):
        for index in range(6):
            row = int(positions[image, prefix + index]) - prefix
            expected = rope[:, row] if mixed else rope[None, row]
            assert torch.equal(placed[image, :, index], expected)


@pytest.mark.parametrize("batched", [False, True])
def test_bias_is_that_between_the_tokens(batched: bool) -> None:
    bias = torch.randn(*([1] if batched else []), 3, 17, 17)
    positions = some_positions(1)
    placed = place_bias(bias, positions)
    assert placed.shape == (2, 3, 7, 7)
    whole = bias[0] if batched else bias
    for image in range(2):
        for row in range(7):
            for column in range(7):
                at = whole[:, positions[image, row, 0], positions[image, column, 0]]
                assert torch.equal(placed[image, :, row, column], at)


def test_all_tokens_are_at_their_own_place() -> None:
    positions = all_positions(torch.zeros(2, 5, 3))
    assert_array_equal(positions.numpy(), np.tile(np.arange(5)[:, None], (2, 1, 1)))
    rope, bias = torch.randn(16, 8), torch.randn(1, 2, 17, 17)
    assert place_rope(rope, None, 1) is rope
    assert place_bias(bias, None) is bias


def test_unknown_shapes_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="rotary embedding of shape"):
        place_rope(torch.zeros(2, 3, 16, 8), some_positions(1), 1)
    with pytest.raises(UnsupportedModelError, match="attention mask of shape"):
        place_bias(torch.zeros(1, 1, 1, 17), some_positions(1))


# --- Whole models ------------------------------------------------------------------------------------------------


def rotate(vector: Array, row: Array, half: bool) -> Array:
    """One head's query or key [D], turned pair by pair by the angles whose sines and cosines are `row` [2 D]."""
    size = len(vector)
    sines, cosines = row[:size], row[size:]
    turned = np.empty(size)
    for channel in range(size):
        if half:
            partner = channel + size // 2 if channel < size // 2 else channel - size // 2
            sign = -1.0 if channel < size // 2 else 1.0
        else:
            partner = channel + 1 if channel % 2 == 0 else channel - 1
            sign = -1.0 if channel % 2 == 0 else 1.0
        turned[channel] = vector[channel] * cosines[channel] + sign * vector[partner] * sines[channel]
    return turned


def swin_bias(table: Array, one: int, other: int, prefix: int) -> Array:
    """The bias [H] of a table of relative positions between two tokens, by their places on the grid."""
    if prefix and (one == 0 or other == 0):
        both = one == 0 and other == 0
        return table[len(table) - (1 if both else 3 if one == 0 else 2)]
    (row, column), (other_row, other_column) = divmod(one - prefix, GRID), divmod(other - prefix, GRID)
    return table[(row - other_row + GRID - 1) * (2 * GRID - 1) + column - other_column + GRID - 1]


Rope = Callable[[int, int], Array]  # head, patch -> [2 D]
Bias = Callable[[int, int], Array]  # token, token -> [H]


def attention(
    weights: Any,
    name: str,
    x: Array,
    positions: list[int],
    prefix: int,
    rope: Rope | None,
    half: bool,
    bias: Bias | None,
) -> tuple[Array, Array]:
    """As `reference._attention`, with rotations or a bias that each token's position tells."""
    qkv = x @ weights[f"{name}.qkv.weight"].T
    if f"{name}.qkv.bias" in weights:
        qkv = qkv + weights[f"{name}.qkv.bias"]
    elif f"{name}.q_bias" in weights:
        qkv = qkv + np.concatenate([weights[f"{name}.q_bias"], np.zeros(HEADS * DIM), weights[f"{name}.v_bias"]])
    qkv = qkv.reshape(len(x), 3, HEADS, DIM)
    outputs, keys = [], []
    for head in range(HEADS):
        query, key, value = qkv[:, 0, head].copy(), qkv[:, 1, head].copy(), qkv[:, 2, head]
        for index, position in enumerate(positions):
            if rope is not None and position >= prefix:
                query[index] = rotate(query[index], rope(head, position - prefix), half)
                key[index] = rotate(key[index], rope(head, position - prefix), half)
        scores = query @ key.T / math.sqrt(DIM)
        if bias is not None:
            for row, one in enumerate(positions):
                for column, other in enumerate(positions):
                    scores[row, column] += bias(one, other)[head]
        outputs.append(reference._softmax(scores) @ value)
        keys.append(key)
    return reference._linear(weights, f"{name}.proj", np.concatenate(outputs, axis=1)), sum(keys) / HEADS


def forward(
    name: str, model: Any, image: Array, layers: list[tuple[str, int]], prefix: int, eps: float
) -> tuple[Array, float]:
    """Logits [classes] of one image, and the smallest margin of any decision."""
    weights = reference._Weights(tiny.weights(model))
    x = reference._embed(weights, image, tiny.PATCH, prefix)
    positions = list(range(len(x)))
    half = name == "dinov3"
    embedding = None
    if getattr(model, "rope", None) is not None:
        embedding = model.rope.get_embed().double().numpy()
    smallest = math.inf
    for index, (method, removed) in enumerate(layers):
        block = f"blocks.{index}"
        rope: Rope | None = None
        bias: Bias | None = None
        if embedding is not None:
            mine = embedding[index] if embedding.ndim == 4 else np.stack([embedding] * HEADS)
            rope = lambda head, patch, mine=mine: mine[head, patch]  # noqa: E731
        for table_name in ("attn", "attn.rel_pos"):
            key = f"{block}.{table_name}.relative_position_bias_table"
            if key in weights:
                table = weights[key]
                bias = lambda one, other, table=table: swin_bias(table, one, other, prefix)  # noqa: E731
        normed = reference._layer_norm(weights, f"{block}.norm1", x, eps)
        attended, metric = attention(weights, f"{block}.attn", normed, positions, prefix, rope, half, bias)
        x = x + scaled(weights, f"{block}.gamma_1", f"{block}.ls1.gamma", attended)
        if removed:
            matching = reference.match(metric, prefix, removed)
            smallest = min(smallest, reference.margin(matching))
            x, _ = reference.apply_matching(x, matching, method, prefix, None)
            positions = [positions[at] for at in (*range(prefix), *matching.kept, *matching.destinations)]
        fed = reference._mlp(weights, f"{block}.mlp", reference._layer_norm(weights, f"{block}.norm2", x, eps))
        x = x + scaled(weights, f"{block}.gamma_2", f"{block}.ls2.gamma", fed)
    x = reference._layer_norm(weights, "norm", x, eps)
    pooled = x[0] if model.global_pool == "token" else x[prefix:].mean(axis=0)
    pooled = reference._layer_norm(weights, "fc_norm", pooled, eps)
    return reference._linear(weights, "head", pooled), smallest


def scaled(weights: Any, one: str, other: str, x: Array) -> Array:
    name = one if one in weights else other
    return x * weights[name] if name in weights else x


@pytest.mark.parametrize("pattern", ["PAM", "MPA", "PPP"])
@pytest.mark.parametrize("name", ["dinov3", "eva-rope-mixed", "beit", "relpos-table"])
def test_whole_models_are_the_oracle(name: str, pattern: str) -> None:
    plan = make_plan(families.spec(name), Reduction(r=(4, 3, 2), pattern=pattern, prop_attn=False))
    model = families.build(name)
    eps = model.blocks[0].norm1.eps
    layers = [(layer.method.word, layer.removed) for layer in plan.layers]
    images = tiny.pixels(2, seed=3)
    expected, margins = zip(
        *(forward(name, model, image.astype(np.float64), layers, plan.prefix_tokens, eps) for image in images),
        strict=True,
    )
    assert min(margins) > 1e-5, "choose another seed"
    patch.apply(model, plan)
    with torch.no_grad():
        got = model(torch.from_numpy(images)).numpy()
    assert_allclose(got, np.stack(expected), rtol=0, atol=2e-5)
