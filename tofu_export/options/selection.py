"""Selections: the rules by which a layer chooses the tokens that leave and what each may join.

Axes: N tokens, P prefix tokens, S sources, T destinations, R removed. Positions count from 0 in the whole sequence.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum

__all__ = ["Positions", "Roles", "Selection", "energy_margin"]

Positions = range | tuple[int, ...]
"""Ascending positions in the sequence that enters a reduction."""

_FIRST_MARGIN = 0.9


class Selection(str, Enum):
    """How the tokens that leave a layer are chosen.

    `BIPARTITE`: of every second token, those most similar to one of the others. Source: arXiv 2210.09461, section 3,
    and arXiv 2312.01026, section 3.1.

    `ENERGY`: of the tokens with the most similar neighbours, every second one joins its nearest other one; isolated
    tokens are protected. Source: PiToMe, arXiv 2405.16148.

    `CLASS_ATTENTION`: the tokens that the class token attends to least; if they merge, all into one. Source: EViT,
    arXiv 2202.07800.

    `PREDICTOR`: before a block, the tokens that a trained predictor gives the lowest keep score; if they merge, all
    into one. Source: DynamicViT, arXiv 2106.02034, and SPViT, arXiv 2112.13890.

    `HALTING`: before a block, the tokens that have the least of their budget left, halted ones first; halted tokens are
    hidden from attention in any case. Source: A-ViT, arXiv 2112.07658.

    `RANDOM`, `STRIDED`: the same positions in every image, drawn once or evenly spaced. Baselines.
    """

    BIPARTITE = "bipartite"
    ENERGY = "energy"
    CLASS_ATTENTION = "class-attention"
    RANDOM = "random"
    STRIDED = "strided"
    PREDICTOR = "predictor"
    HALTING = "halting"

    @property
    def reads_class_attention(self) -> bool:
        """True if the importance of a token is the attention of the class token."""
        return self is Selection.CLASS_ATTENTION

    @property
    def needs_class_token(self) -> bool:
        """True if the selection cannot do without a class token in the blocks."""
        return self in (Selection.CLASS_ATTENTION, Selection.HALTING)

    @property
    def reads_importance(self) -> bool:
        """True if tokens are ranked by a score of their own, which then also weighs the tokens of a merge."""
        return self in (Selection.CLASS_ATTENTION, Selection.PREDICTOR, Selection.HALTING)

    @property
    def has_predictors(self) -> bool:
        """True if modules beside the blocks score the tokens: the weights have to have them."""
        return self is Selection.PREDICTOR

    @property
    def is_trained(self) -> bool:
        """True if the weights were trained to choose: they say where, and that token sizes stay out of attention."""
        return self in (Selection.PREDICTOR, Selection.HALTING)

    @property
    def halts(self) -> bool:
        """True if tokens halt one by one (`Halting`), whether or not they leave; then nothing merges."""
        return self is Selection.HALTING

    @property
    def is_before_block(self) -> bool:
        """True if tokens leave before the attention of a block, not between its attention and its MLP."""
        return self in (Selection.PREDICTOR, Selection.HALTING)

    @property
    def finds_partners(self) -> bool:
        """True if a token that leaves has a similar destination, which can stand for it."""
        return not self.reads_importance

    def roles(self, tokens: int, prefix: int, removed: int, layer: int) -> Roles:
        """Return which of the tokens that enter layer `layer` may leave, and which may be joined."""
        if self is Selection.ENERGY or self.reads_importance:
            return Roles(tokens, removed, range(prefix, tokens), (), pooled=True)
        if self is Selection.BIPARTITE:
            sources: Positions = range(prefix + prefix % 2, tokens, 2)
            destinations: Positions = range(prefix + 1 - prefix % 2, tokens, 2)
            return Roles(tokens, removed, sources, destinations)
        patches = tokens - prefix
        if self is Selection.STRIDED:
            sources = tuple(prefix + index * patches // removed for index in range(removed))
        else:
            sources = tuple(sorted(sorted(range(prefix, tokens), key=lambda place: _draw(layer, place))[:removed]))
        left = set(sources)
        return Roles(tokens, removed, sources, tuple(place for place in range(prefix, tokens) if place not in left))


@dataclass(frozen=True)
class Roles:
    """Roles of the tokens that enter one reduction. The output is prefix, sources that stay, destinations.

    Attributes:
        tokens: N, prefix included.
        removed: R, sources that leave.
        sources: positions of the S tokens that may leave.
        destinations: positions of the T tokens that stay and may be joined; none in a pool.
        pooled: sources that leave join sources that stay.
    """

    tokens: int
    removed: int
    sources: Positions
    destinations: Positions
    pooled: bool = False

    @property
    def staying(self) -> int:
        """Number of sources that stay, S - R."""
        return len(self.sources) - self.removed

    @property
    def joinable(self) -> int:
        """Number of tokens that can be joined; they are the last rows of the output."""
        return self.staying if self.pooled else len(self.destinations)

    @property
    def first_row(self) -> int:
        """First row of the output that can be joined."""
        return self.tokens - self.removed - self.joinable


def energy_margin(layer: int, depth: int) -> float:
    """Return the cosine above which two tokens of layer `layer` (0-based) of `depth` count as similar.

    Source: arXiv 2405.16148, section 3.2.
    """
    return _FIRST_MARGIN - _FIRST_MARGIN * layer / depth


def _draw(layer: int, place: int) -> bytes:
    """Return a pseudo-random key that is the same on every machine."""
    return hashlib.sha256(f"{layer} {place}".encode()).digest()
