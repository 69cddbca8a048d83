"""Slow, obvious oracle of halting (A-ViT, arXiv 2112.07658) in float64, written from the paper. Shares no code.

Each token of each image has a list entry, and a token that halted or was dropped is not there any more: no mask, no
bias. What the library hides by a bias of attention must come out the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Gate", "Run", "halting_forward"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Gate:
    """Score of a token: sigmoid(scale * first channel - center); it halts once its scores reach 1 - epsilon."""

    scale: float
    center: float
    epsilon: float


@dataclass
class Run:
    """What became of one image.

    Attributes:
        logits: [classes].
        active: for each block the tokens that attend and are attended to, prefix not included.
        dropped: tokens that still had work to do when a block had no place for them.
        places: for each block the places of the sequence that enters it, in the original sequence.
        nearest: smallest distance of a score sum from 1 - epsilon, or of two tokens of which only one was dropped.
    """

    logits: Array = field(default_factory=lambda: np.empty(0))
    active: list[int] = field(default_factory=list)
    dropped: int = 0
    places: list[list[int]] = field(default_factory=list)
    nearest: float = math.inf


def halting_forward(
    state: Mapping[str, Array],
    image: Array,
    *,
    patch: int,
    heads: int,
    gate: Gate,
    leaving: Sequence[int],
    prefix: int = 1,
    eps: float = 1e-6,
) -> Run:
    """One image [channels, H, W] through a pre-norm ViT with a class token, `leaving[l]` tokens dropped before block l.

    Dropped are the tokens whose scores sum up to most, halted ones first; of equal ones those that come first.
    """
    weights = {name: np.asarray(value, dtype=np.float64) for name, value in state.items()}
    x = _embedded(weights, np.asarray(image, dtype=np.float64), patch)
    run = Run()
    spent = dict.fromkeys(range(len(x)), 0.0)  # cumulated scores; 1 once halted
    tokens = {place: x[place] for place in range(len(x))}
    outputs = [np.zeros(x.shape[1]) for _ in range(prefix)]
    for block, count in enumerate(leaving):
        order = sorted((place for place in tokens if place >= prefix), key=lambda place: (-spent[place], place))
        for place in order[:count]:
            run.dropped += spent[place] < 1.0
            del tokens[place]
        if 0 < count < len(order) and spent[order[count]] < 1.0:
            run.nearest = min(run.nearest, spent[order[count - 1]] - spent[order[count]])
        run.places.append(sorted(tokens))
        working = [place for place in sorted(tokens) if spent[place] < 1.0]
        run.active.append(sum(place >= prefix for place in working))
        after = _block(weights, f"blocks.{block}", np.stack([tokens[place] for place in working]), heads, eps)
        for place, token in zip(working, after, strict=True):
            tokens[place] = token
            score = 1.0 / (1.0 + math.exp(-(gate.scale * float(token[0]) - gate.center)))
            total = spent[place] + score
            if block < len(leaving) - 1:
                run.nearest = min(run.nearest, abs(1.0 - gate.epsilon - total))
            if block == len(leaving) - 1 or total >= 1.0 - gate.epsilon:
                share, spent[place] = 1.0 - spent[place], 1.0  # the remainder
            else:
                share, spent[place] = score, total
            if place < prefix:
                outputs[place] = outputs[place] + share * token
    first = _norm(weights, "norm", outputs[0], eps)
    run.logits = weights["head.weight"] @ first + weights["head.bias"]
    if "head_dist.weight" in weights:
        second = _norm(weights, "norm", outputs[1], eps)
        run.logits = (run.logits + weights["head_dist.weight"] @ second + weights["head_dist.bias"]) / 2
    return run


def _embedded(weights: Mapping[str, Array], image: Array, patch: int) -> Array:
    kernel, bias = weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"]
    rows = []
    for top in range(0, image.shape[1], patch):
        for left in range(0, image.shape[2], patch):
            window = image[:, top : top + patch, left : left + patch]
            rows.append([float((window * each).sum()) for each in kernel] + bias)
    front = [weights[name][0] for name in ("cls_token", "dist_token") if name in weights]
    return np.concatenate([*front, np.array(rows)]) + weights["pos_embed"][0]


def _norm(weights: Mapping[str, Array], name: str, x: Array, eps: float) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    spread = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps)
    scaled: Array = centred / spread * weights[f"{name}.weight"] + weights[f"{name}.bias"]
    return scaled


def _linear(weights: Mapping[str, Array], name: str, x: Array) -> Array:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _block(weights: Mapping[str, Array], name: str, x: Array, heads: int, eps: float) -> Array:
    qkv = _linear(weights, f"{name}.attn.qkv", _norm(weights, f"{name}.norm1", x, eps))
    width = x.shape[1] // heads
    mixed = np.zeros_like(x)
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        query, key, value = (np.split(qkv, 3, axis=1)[index][:, part] for index in range(3))
        for row in range(len(x)):
            scores = [math.exp(float(query[row] @ other) / math.sqrt(width)) for other in key]
            total = math.fsum(scores)
            mixed[row, part] = sum(score / total * vector for score, vector in zip(scores, value, strict=True))
    x = x + _linear(weights, f"{name}.attn.proj", mixed)
    hidden = _linear(weights, f"{name}.mlp.fc1", _norm(weights, f"{name}.norm2", x, eps))
    hidden = np.vectorize(lambda value: 0.5 * value * (1.0 + math.erf(value / math.sqrt(2.0))))(hidden)
    return x + _linear(weights, f"{name}.mlp.fc2", hidden)
