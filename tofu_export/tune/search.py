"""Search for a plan: a table of plain schedules first, then small changes to the best ones. Pure Python, seeded.

The search depends only on the seed and the losses, so that an interrupted run can continue once its measured losses are
known again (`tofu_export.tune.state`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tofu_export.options import Method, Reduction
from tofu_export.tune.space import Candidate, Space

__all__ = ["Found", "patterns", "schedules", "search"]

BEAM = 4
"""Number of candidates that changes start from."""

STEPS = (1, 2, 4, 8)
"""Numbers of tokens to move between two layers at once."""

KNOTS = 4
"""Number of positions, evenly spaced over the depth, at which a schedule can bend."""

FACTORS = (0.5, 0.67, 0.8, 1.25, 1.5, 2.0)
"""Factors for the amounts around a knot."""

_SIZES_SHARE = 0.2
"""Probability of changing whether token sizes enter the attention."""

_IDLE_DRAWS = 200
"""Number of draws in a row without a new candidate that ends the search: a small space is exhausted."""


@dataclass(frozen=True)
class Found:
    """Candidate and its loss on the calibration images."""

    candidate: Candidate
    loss: float


def search(
    space: Space,
    first: Candidate,
    measure: Callable[[Candidate], float],
    *,
    evaluations: int,
    seed: int,
) -> list[Found]:
    """Return all measured candidates, best first; of equals the earlier one.

    Args:
        space: candidates to choose from.
        first: the baseline plan, which is measured first.
        measure: returns the loss of a candidate.
        evaluations: the most candidates to measure.
        seed: seed of all draws.
    """
    rng = random.Random(seed)
    found: list[Found] = []
    seen: set[Candidate] = set()

    def consider(candidate: Candidate | None) -> bool:
        """Measure a candidate if it is new; True if it was."""
        if candidate is None or candidate in seen or len(found) >= evaluations:
            return False
        seen.add(candidate)
        found.append(Found(candidate, measure(candidate)))
        return True

    consider(first)
    for candidate in _table(space, rng):
        consider(candidate)
    idle = 0
    while len(found) < evaluations and idle < _IDLE_DRAWS:
        best = sorted(found, key=lambda entry: entry.loss)[:BEAM]
        parent = rng.choice(best[: rng.randint(1, len(best))])  # better ones more often
        idle = 0 if consider(_changed(space, parent.candidate, rng)) else idle + 1
    return sorted(found, key=lambda entry: entry.loss)


def schedules(depth: int) -> dict[str, list[float]]:
    """Return shares of the tokens by layer, by name: constant, falling, rising, and parts of the depth alone."""
    last = max(depth - 1, 1)
    third = max(depth // 3, 1)
    return {
        "constant": [1.0] * depth,
        "falling": [1.0 - layer / last for layer in range(depth)],
        "rising": [layer / last for layer in range(depth)],
        "middle": [1.0 - abs(2 * layer / last - 1) for layer in range(depth)],
        "not the first": [0.0] * third + [1.0] * (depth - third),
        "not the last": [1.0] * (depth - third) + [0.0] * third,
    }


def patterns(depth: int, letters: str) -> list[str]:
    """Return plain patterns of the letters: each alone, and pruning before each other one at some boundaries."""
    found = [letter * depth for letter in letters]
    if Method.PRUNE.value in letters:
        for letter in letters.replace(Method.PRUNE.value, ""):
            boundaries = sorted({round(depth * share) for share in (1 / 6, 1 / 4, 1 / 3, 1 / 2, 2 / 3)})
            found += [Method.PRUNE.value * d + letter * (depth - d) for d in boundaries if 0 < d < depth]
    return list(dict.fromkeys(found))


def _table(space: Space, rng: random.Random) -> Iterator[Candidate | None]:
    """Yield every schedule with the default pattern, then every pattern with a constant and a falling schedule.

    Between these comes the default pattern with a constant schedule and the other choice for token sizes.
    """
    depth = space.spec.depth
    plain = patterns(depth, space.letters)
    default = "".join(method.value for method in Reduction().methods(depth))
    usual = default if default in plain else plain[-1]
    even, falling = schedules(depth)["constant"], schedules(depth)["falling"]
    rows = [(usual, shares, space.prop_attn[0]) for shares in schedules(depth).values()]
    rows += [(usual, even, other) for other in space.prop_attn[1:]]
    rows += [(pattern, shares, space.prop_attn[0]) for pattern in plain for shares in (even, falling)]
    for pattern, shares, prop_attn in rows:
        r = space.fitted(_least(space, shares), rng)
        yield None if r is None else Candidate.of(pattern, r, prop_attn)


def _least(space: Space, shares: list[float]) -> list[int]:
    """Return the smallest multiple of the shares that meets the budget, or the largest possible."""
    low, high = 0, space.spec.tokens
    while low < high:
        middle = (low + high) // 2
        if space.meets(space.capped([round(share * middle) for share in shares])):
            high = middle
        else:
            low = middle + 1
    return [round(share * high) for share in shares]


def _changed(space: Space, parent: Candidate, rng: random.Random) -> Candidate | None:
    """Make a small change: bend the schedule, move tokens between two layers, or change the method of a run of layers.

    A few parameters for many layers: changes of single layers follow the noise of the images (docs/tuning.md).
    """
    letters, r, prop_attn = list(parent.pattern), list(parent.r), parent.prop_attn
    for layer, letter in enumerate(letters):
        if letter == Method.NONE.value:  # the method of its neighbour, if it gets tokens
            near = sorted(range(len(letters)), key=lambda other: abs(other - layer))
            letters[layer] = next((letters[other] for other in near if letters[other] != letter), space.letters[0])
    kinds = ["bend", "bend", "move"]
    kinds += ["methods"] * 2 * (len(space.letters) > 1)
    kinds += ["sizes"] * (len(space.prop_attn) > 1 and rng.random() < _SIZES_SHARE)
    kind = rng.choice(kinds)
    if kind == "bend":
        r = _bent(r, rng.randrange(KNOTS), rng.choice(FACTORS))
    elif kind == "move" and len(space.layers) > 1:
        source, target = rng.sample(space.layers, 2)
        step = min(rng.choice(STEPS), r[source])
        r[source] -= step
        r[target] += step
    elif kind == "methods":
        ends = sorted(rng.choices(range(len(letters)), k=2))
        letters[ends[0] : ends[1] + 1] = rng.choice(space.letters) * (ends[1] + 1 - ends[0])
    elif kind == "sizes":
        prop_attn = rng.choice(space.prop_attn)
    fitted = space.fitted(r, rng)
    return None if fitted is None else Candidate.of(letters, fitted, prop_attn)


def _bent(r: Sequence[int], knot: int, factor: float) -> list[int]:
    """Return `r` with the amounts around one of `KNOTS` evenly spaced positions multiplied, less at a distance."""
    spacing = max((len(r) - 1) / (KNOTS - 1), 1)
    near = [max(0.0, 1 - abs(layer - knot * spacing) / spacing) for layer in range(len(r))]
    return [round(amount * (1 + (factor - 1) * share)) for amount, share in zip(r, near, strict=True)]
