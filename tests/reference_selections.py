"""Slow, obvious oracles of the selections beside bipartite matching, in float64, each written from its paper.

They share no code with `tofu_export`. What comes out is prefix, then all other tokens that stay by their place, so
`reference.Matching` has them all as destinations.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

from tests.reference import Choose, Matching

__all__ = ["SELECTIONS", "chooser", "margin"]

Array = NDArray[np.float64]

SELECTIONS = ("energy", "class-attention", "random", "strided")
TINY = 1e-12


def _cosine(one: Array, other: Array) -> float:
    lengths = [max(math.sqrt(math.fsum((token * token).tolist())), TINY) for token in (one, other)]
    return math.fsum((one * other).tolist()) / (lengths[0] * lengths[1])


def _staying(tokens: int, prefix: int, leaving: list[int]) -> list[int]:
    return [place for place in range(prefix, tokens) if place not in leaving]


def energy(metric: Array, prefix: int, r: int, threshold: float) -> tuple[Matching, float]:
    """PiToMe (arXiv 2405.16148): crowded tokens merge. With the margin of the decisions (`reference.margin`)."""
    metric = np.asarray(metric, dtype=np.float64)
    places = range(prefix, len(metric))
    similarity = {(one, other): _cosine(metric[one], metric[other]) for one in places for other in places}
    energies = {}
    for one in places:
        shares = []
        for other in places:
            x = similarity[one, other]
            shares.append(x if x >= threshold else math.exp(x - threshold) - 1.0)
        energies[one] = math.fsum(shares) / len(places)
    ranked = sorted(places, key=lambda place: (-energies[place], place))
    leaving, partners = ranked[0 : 2 * r : 2], ranked[1 : 2 * r : 2]
    matched, gaps = [], []
    for token in leaving:
        best = max(partners, key=lambda partner: (similarity[token, partner], -partners.index(partner)))
        matched.append((token, best))
        gaps += [similarity[token, best] - similarity[token, other] for other in partners if other != best]
    values = [energies[place] for place in ranked]
    gaps += [values[rank] - values[rank + 1] for rank in range(min(2 * r, len(values) - 1))]
    gaps += [abs(cosine - threshold) for pair, cosine in similarity.items() if pair[0] != pair[1]]
    return Matching([], matched, _staying(len(metric), prefix, leaving), energies, similarity), min(gaps)


def class_attention(attention: Array, prefix: int, r: int) -> tuple[Matching, float]:
    """EViT (arXiv 2202.07800): what the class token attends to least becomes one token, r + 1 of them."""
    places = range(prefix, len(attention))
    ranked = sorted(places, key=lambda place: (attention[place], place))
    leaving, fused = ranked[:r], ranked[r]
    edges = [rank for rank in (r - 1, r) if rank + 1 < len(ranked)]
    gaps = [abs(math.log(attention[ranked[rank + 1]] / attention[ranked[rank]])) for rank in edges]
    unseen = {place: -float(attention[place]) for place in places}
    matched = [(token, fused) for token in leaving]
    return Matching([], matched, _staying(len(attention), prefix, leaving), unseen, {}), min(gaps, default=math.inf)


def fixed(metric: Array, prefix: int, r: int, layer: int, kind: str) -> tuple[Matching, float]:
    """The same places in every image, evenly spaced or drawn once; each joins the nearest of those that stay."""
    metric = np.asarray(metric, dtype=np.float64)
    tokens = len(metric)
    if kind == "strided":
        leaving = [prefix + math.floor(index * (tokens - prefix) / r) for index in range(r)]
    else:
        drawn = {place: hashlib.sha256(b"%d %d" % (layer, place)).hexdigest() for place in range(prefix, tokens)}
        leaving = sorted(sorted(drawn, key=lambda place: drawn[place])[:r])
    staying = _staying(tokens, prefix, leaving)
    similarity = {(token, other): _cosine(metric[token], metric[other]) for token in leaving for other in staying}
    matched, gaps = [], [math.inf]
    for token in leaving:
        best = max(staying, key=lambda other: (similarity[token, other], -other))
        matched.append((token, best))
        gaps += [similarity[token, best] - similarity[token, other] for other in staying if other != best]
    return Matching([], matched, staying, {}, similarity), min(gaps)


def margin(kind: str, metric: Array, attention: Array, prefix: int, r: int, layer: int, depth: int) -> float:
    """How far the nearest decision is from being another one; 0 for a tie."""
    return _chosen(kind, metric, attention, prefix, r, layer, depth)[1]


def chooser(kind: str, depth: int) -> Choose:
    """A selection as `reference.vit_forward` takes it, in a model of `depth` blocks."""

    def choose(metric: Array, attention: Array, prefix: int, r: int, layer: int) -> tuple[Matching, Array | None]:
        matching, _ = _chosen(kind, metric, attention, prefix, r, layer, depth)
        return matching, attention if kind == "class-attention" else None

    return choose


def _chosen(
    kind: str, metric: Array, attention: Array, prefix: int, r: int, layer: int, depth: int
) -> tuple[Matching, float]:
    if kind == "energy":
        return energy(metric, prefix, r, 0.9 - 0.9 * layer / depth)
    if kind == "class-attention":
        return class_attention(attention, prefix, r)
    return fixed(metric, prefix, r, layer, kind)
