"""Slow, obvious oracles of trained token predictors, in float64, each written from its paper, with loops over tokens.

They share no code with `tofu_export`, and lay tokens out as the papers do: a package token is appended at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Before", "dynamicvit_score", "dynamicvit_stage", "spvit_score", "spvit_stage", "staged"]

Array = NDArray[np.float64]
State = dict[str, Array]
Before = Callable[[int, Array], Array]
"""What `reference.vit_forward` does to the tokens [N, C] that enter a block."""

EPS = 1e-5


def _gelu(x: float) -> float:
    return 0.5 * x * (1.0 + math.erf(x / math.sqrt(2.0)))


def _linear(state: State, name: str, x: Array) -> Array:
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    return np.array([math.fsum(row * x) + offset for row, offset in zip(weight, bias, strict=True)])


def _embed(state: State, name: str, x: Array) -> Array:
    centred = x - x.mean()
    normed = centred / math.sqrt((centred**2).mean() + EPS) * state[f"{name}.0.weight"] + state[f"{name}.0.bias"]
    return np.array([_gelu(value) for value in _linear(state, f"{name}.1", normed)])


def _logits(state: State, name: str, x: Array) -> Array:
    for layer in (0, 2):
        x = np.array([_gelu(value) for value in _linear(state, f"{name}.{layer}", x)])
    return _linear(state, f"{name}.4", x)


def _keep(state: State, inside: str, outside: str, tokens: Array) -> list[float]:
    """Keep probabilities from local and global halves of embedded tokens."""
    embedded = [_embed(state, inside, token) for token in tokens]
    half = len(embedded[0]) // 2
    whole = sum(token[half:] for token in embedded) / len(embedded)
    scores = []
    for token in embedded:
        to_keep, to_drop = _logits(state, outside, np.concatenate([token[:half], whole]))
        scores.append(1.0 / (1.0 + math.exp(to_drop - to_keep)))
    return scores


def dynamicvit_score(state: State, stage: int, tokens: Array) -> list[float]:
    """DynamicViT (arXiv 2106.02034, section 3.2), where no token was dropped: how likely each token stays."""
    name = f"score_predictor.{stage}"
    return _keep(state, f"{name}.in_conv", f"{name}.out_conv", tokens)


def spvit_score(state: State, stage: int, tokens: Array) -> list[float]:
    """SPViT (arXiv 2112.13890): such a score from each head, in a mean weighted by a head attention."""
    name = f"score_predictor.{stage}"
    heads = len(state[f"{name}.senet.2.bias"])
    width = tokens.shape[1] // heads
    parts = [tokens[:, head * width : (head + 1) * width] for head in range(heads)]
    by_head = [
        _keep(state, f"{name}.in_conv.{head}", f"{name}.out_conv.{head}", part) for head, part in enumerate(parts)
    ]
    scores = []
    for index in range(len(tokens)):
        means = np.array([part[index].mean() for part in parts])
        hidden = np.array([_gelu(value) for value in _linear(state, f"{name}.senet.0", means)])
        weights = [1.0 / (1.0 + math.exp(-value)) for value in _linear(state, f"{name}.senet.2", hidden)]
        shares = [weight * scored[index] for weight, scored in zip(weights, by_head, strict=True)]
        scores.append(math.fsum(shares) / math.fsum(weights))
    return scores


def _ranked(scores: list[float], kept: int, decidable: float) -> tuple[list[int], list[int]]:
    """Places that stay and that leave, each ascending."""
    order = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
    assert scores[order[kept - 1]] - scores[order[kept]] > decidable, "choose another seed"
    return sorted(order[:kept]), sorted(order[kept:])


def dynamicvit_stage(state: State, stage: int, x: Array, kept: int, decidable: float) -> Array:
    """The class token and the `kept` patches of the highest scores."""
    staying, _ = _ranked(dynamicvit_score(state, stage, x[1:]), kept, decidable)
    return np.stack([x[0], *(x[1 + place] for place in staying)])


def spvit_stage(state: State, stage: int, x: Array, kept: int, decidable: float) -> Array:
    """The same; then the packages of earlier stages, which are scored but stay, and one of what leaves here."""
    patches = len(x) - 1 - stage
    scores = spvit_score(state, stage, x[1:])
    staying, leaving = _ranked(scores[:patches], kept, decidable)
    total = math.fsum(scores[place] for place in leaving)
    package = sum(scores[place] * x[1 + place] for place in leaving) / total
    return np.stack([x[0], *(x[1 + place] for place in staying), *x[1 + patches :], package])


def staged(kind: str, state: State, kept: dict[int, int], decidable: float = 1e-6) -> Before:
    """What happens before blocks; `kept`: block to the patches that stay, without packages, in ascending order."""
    stages = {block: stage for stage, block in enumerate(kept)}
    reduce = dynamicvit_stage if kind == "dynamicvit" else spvit_stage

    def before(block: int, x: Array) -> Array:
        return reduce(state, stages[block], x, kept[block], decidable) if block in kept else x

    return before
