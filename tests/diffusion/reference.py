"""Slow, obvious oracle of a reduction on a grid, in float64, written from the definition alone.

It shares no code and no formulation with `tofu_export`. Where the paper is silent it fixes:

- **Partition**: cells of sy rows and sx columns from the top left, whole ones only. The first token of each is a
  destination, every other token of the grid a source.
- **Ties**: the lowest destination for a source; of equally similar sources the lower one stays.
- **Mean**: every token counts once, the destination among them (tomesd's merge is the same).
- **Unmerge**: a token that left is a copy of what became of its destination.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["destinations", "groups", "merge", "unmerge"]

Array = NDArray[np.float64]


def destinations(height: int, width: int, sy: int, sx: int) -> list[int]:
    """Positions of the destinations, row by row."""
    found = []
    for y in range(height):
        for x in range(width):
            whole = y // sy < height // sy and x // sx < width // sx
            if whole and y % sy == 0 and x % sx == 0:
                found.append(y * width + x)
    return found


def _cosine(one: Array, other: Array) -> float:
    length = max(math.sqrt(math.fsum(one * one)), 1e-12) * max(math.sqrt(math.fsum(other * other)), 1e-12)
    return math.fsum(one * other) / length


def groups(tokens: Array, chosen: list[int], removed: int) -> tuple[list[int], dict[int, int]]:
    """Of one image [N, C]: sources that stay, and for each source that leaves its destination, all as positions."""
    best: dict[int, tuple[float, int]] = {}
    for source in range(len(tokens)):
        if source in chosen:
            continue
        similarities = [_cosine(tokens[source], tokens[destination]) for destination in chosen]
        top = max(similarities)
        best[source] = (top, chosen[similarities.index(top)])
    order = sorted(best, key=lambda source: (best[source][0], source))
    staying = order[: len(order) - removed]
    return staying, {source: best[source][1] for source in order if source not in staying}


def merge(tokens: Array, chosen: list[int], leaving: dict[int, int], method: str) -> dict[int, Array]:
    """What attention sees for each position that is left, in the parts' own tokens [N, C]."""
    seen = {position: tokens[position] for position in range(len(tokens)) if position not in leaving}
    if method == "prune":
        return seen
    for destination in chosen:
        members = [tokens[destination], *(tokens[source] for source, to in leaving.items() if to == destination)]
        if len(members) == 1:
            continue
        mean = sum(members[1:], members[0]) / len(members)
        if method == "mlerp":
            length = math.sqrt(math.fsum(mean * mean))
            longest = max(math.sqrt(math.fsum(member * member)) for member in members)
            mean = mean / max(length, 1e-12) * longest
        seen[destination] = mean
    return seen


def unmerge(outputs: dict[int, Array], leaving: dict[int, int], count: int) -> Array:
    """All tokens [N, C] again from what became of those that were left."""
    return np.stack([outputs[leaving.get(position, position)] for position in range(count)])
