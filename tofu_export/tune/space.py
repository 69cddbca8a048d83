"""Space of candidates: a method and an amount for each layer, as little as meets the budget. Pure Python."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tofu_export.options import Method, Reduction, Selection
from tofu_export.planning.plan import ModelSpec, removable

__all__ = ["Candidate", "Space"]


@dataclass(frozen=True)
class Candidate:
    """Method and amount for every layer.

    Attributes:
        pattern: a letter per layer, `-` if nothing leaves.
        r: tokens that leave each layer, exactly.
        prop_attn: token sizes enter the attention.
    """

    pattern: str
    r: tuple[int, ...]
    prop_attn: bool = True

    @classmethod
    def of(cls, letters: Sequence[str], r: Sequence[int], prop_attn: bool = True) -> Candidate:
        """Return the candidate, with `-` for layers that remove nothing: their method does not matter."""
        pairs = zip(letters, r, strict=True)
        return cls("".join(letter if amount else Method.NONE.value for letter, amount in pairs), tuple(r), prop_attn)

    def reduction(self, select: Selection = Selection.BIPARTITE) -> Reduction:
        """Return the options that give this candidate."""
        return Reduction(r=self.r, pattern=self.pattern, prop_attn=self.prop_attn, select=select)


@dataclass(frozen=True)
class Space:
    """Candidates that meet a budget.

    Attributes:
        spec: the model.
        letters: letters of the methods to choose from.
        cost: cost of amounts; it never rises when a layer removes more.
        limit: largest cost.
        excluded: layers that remove nothing.
        prop_attn: whether token sizes may enter the attention, the first choice first.
        select: how the tokens that leave are chosen.
    """

    spec: ModelSpec
    letters: str
    cost: Callable[[Sequence[int]], float]
    limit: float
    excluded: frozenset[int] = frozenset()
    prop_attn: tuple[bool, ...] = (True,)
    select: Selection = Selection.BIPARTITE

    @property
    def layers(self) -> list[int]:
        """Layers that may remove tokens."""
        return [layer for layer in range(self.spec.depth) if layer not in self.excluded]

    def capped(self, amounts: Sequence[int]) -> list[int]:
        """Cap amounts to what each layer can remove."""
        removed: list[int] = []
        tokens = self.spec.tokens
        for layer, amount in enumerate(amounts):
            most = 0 if layer in self.excluded else removable(tokens, self.spec.prefix_tokens)
            removed.append(max(0, min(amount, most)))
            tokens -= removed[-1]
        return removed

    def meets(self, r: Sequence[int]) -> bool:
        """True if the budget is met."""
        return self.cost(r) <= self.limit

    def fitted(self, amounts: Sequence[int], rng: random.Random) -> tuple[int, ...] | None:
        """Return amounts near the given ones that just meet the budget; None if impossible.

        If they cost too much, layers drawn at random remove one more token until the budget is met. Then every
        layer, in a random order, keeps more tokens as long as the budget is met.
        """
        r = self.capped(amounts)
        while not self.meets(r):
            more = [
                layer for layer in self.layers if (grown := self._changed(r, layer, 1)) != r and sum(grown) > sum(r)
            ]
            if not more:
                return None
            r = self._changed(r, rng.choice(more), 1)
        order = [layer for layer in self.layers if r[layer]]
        rng.shuffle(order)
        for layer in order:
            while r[layer] and self.meets(lowered := self._changed(r, layer, -1)) and lowered != r:
                r = lowered
        return tuple(r)

    def _changed(self, r: Sequence[int], layer: int, by: int) -> list[int]:
        changed = list(r)
        changed[layer] += by
        return self.capped(changed)
