"""The search: a table of plain schedules first, then small changes to the best ones. Pure Python, seeded.

It is a function of the seed and of the losses alone, so that a run which was cut off goes on where it was once the
losses that it had measured are known again (`tofu_export.tune.state`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tofu_export.options import Method
from tofu_export.tune.space import Candidate, Space

__all__ = ["Found", "patterns", "schedules", "search"]

BEAM = 4
"""Candidates that changes start from."""

STEPS = (1, 2, 4, 8)
"""Tokens that move between two layers at once."""

_IDLE_DRAWS = 200
"""Draws in a row that bring nothing new before the search ends: a small space is used up."""


@dataclass(frozen=True)
class Found:
    """A candidate and its loss on the calibration images."""

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
    """All candidates that were measured, best first; of equals the earlier one.

    Args:
        space: what may be chosen.
        first: the plan to beat, which is measured first.
        measure: the loss of a candidate.
        evaluations: the most candidates to measure.
        seed: of all draws.
    """
    rng = random.Random(seed)
    found: list[Found] = []
    seen: set[Candidate] = set()

    def consider(candidate: Candidate | None) -> bool:
        """Measure what is new; True if it was."""
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
        parent = rng.choice(best[: rng.randint(1, len(best))])  # the better, the more often
        idle = 0 if consider(_changed(space, parent.candidate, rng)) else idle + 1
    return sorted(found, key=lambda entry: entry.loss)


def schedules(depth: int) -> dict[str, list[float]]:
    """Shares of the tokens by layer, by name: constant, falling, rising, and parts of the depth alone."""
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
    """Plain patterns of the letters: each of them alone, and pruning before each other one with five boundaries."""
    found = [letter * depth for letter in letters]
    if Method.PRUNE.value in letters:
        for letter in letters.replace(Method.PRUNE.value, ""):
            boundaries = sorted({round(depth * share / 6) for share in range(1, 6)})
            found += [Method.PRUNE.value * d + letter * (depth - d) for d in boundaries if 0 < d < depth]
    return list(dict.fromkeys(found))


def _table(space: Space, rng: random.Random) -> Iterator[Candidate | None]:
    """Every schedule with the paper's kind of hybrid, then every pattern with the constant schedule."""
    depth = space.spec.depth
    plain = patterns(depth, space.letters)
    middle = next((one for one in plain if len(set(one)) == 2 and one.count(one[0]) == round(depth / 2)), plain[0])
    rows = [(middle, shares) for shares in schedules(depth).values()]
    rows += [(pattern, schedules(depth)["constant"]) for pattern in plain]
    for pattern, shares in rows:
        r = space.fitted(_least(space, shares), rng)
        yield None if r is None else Candidate.of(pattern, r)


def _least(space: Space, shares: list[float]) -> list[int]:
    """The smallest multiple of the shares that meets the budget, or the largest that there is."""
    low, high = 0, space.spec.tokens
    while low < high:
        middle = (low + high) // 2
        if space.meets(space.capped([round(share * middle) for share in shares])):
            high = middle
        else:
            low = middle + 1
    return [round(share * high) for share in shares]


def _changed(space: Space, parent: Candidate, rng: random.Random) -> Candidate | None:
    """A small change: tokens move between two layers, a layer takes another method, or both."""
    letters, r = list(parent.pattern), list(parent.r)
    for layer, letter in enumerate(letters):
        if letter == Method.NONE.value:  # the method of its neighbour, should it get tokens
            near = sorted(range(len(letters)), key=lambda other: abs(other - layer))
            letters[layer] = next((letters[other] for other in near if letters[other] != letter), space.letters[0])
    kind = rng.choice(("move", "move", "method", "both")) if len(space.letters) > 1 else "move"
    if kind in ("move", "both") and len(space.layers) > 1:
        source, target = rng.sample(space.layers, 2)
        step = min(rng.choice(STEPS), r[source])
        r[source] -= step
        r[target] += step
    if kind in ("method", "both"):
        layer = rng.choice(space.layers)
        letters[layer] = rng.choice([letter for letter in space.letters if letter != letters[layer]])
    fitted = space.fitted(r, rng)
    return None if fitted is None else Candidate.of(letters, fitted)
