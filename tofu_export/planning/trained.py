"""Plans for weights that were trained to choose tokens: where they choose, and how many stay. Pure Python, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction

from tofu_export.errors import OptionError
from tofu_export.options import Method, Mode, Reduction

__all__ = ["PredictorKind", "Predictors", "kept_by_share", "methods_trained"]


class PredictorKind(str, Enum):
    """Kind of trained token predictors.

    `DYNAMICVIT`: what leaves is pruned. Source: arXiv 2106.02034, section 3.2.

    `SPVIT`: what leaves becomes one package token, the mean by keep scores, which no later layer removes. Source: arXiv
    2112.13890.
    """

    DYNAMICVIT = "dynamicvit"
    SPVIT = "spvit"

    @property
    def method(self) -> Method:
        """What happens to the tokens that leave."""
        return Method.PRUNE if self is PredictorKind.DYNAMICVIT else Method.AVERAGE


@dataclass(frozen=True)
class Predictors:
    """Predictors of a model, one before each of some blocks.

    Attributes:
        kind: how they score tokens.
        count: number of predictors.
        macs_token: multiply-accumulates of one predictor per token that it scores.
    """

    kind: PredictorKind
    count: int
    macs_token: int

    def places(self, depth: int) -> tuple[int, ...]:
        """Return the blocks before which tokens leave if nothing else is said: evenly spaced.

        Source: arXiv 2106.02034 and its repository (3, 6 and 9 of 12 blocks; 4, 8 and 12 of 16; 5, 10 and 15 of 20).
        """
        return tuple(depth * (index + 1) // (self.count + 1) for index in range(self.count))


def methods_trained(predictors: Predictors, reduction: Reduction, depth: int, name: str) -> tuple[Method, ...]:
    """Return the method of each of `depth` layers: that of the predictors at their places, none elsewhere.

    The layers with a method have the predictors, in their order. They are the layers of a pattern, those to which a
    list of r gives tokens, or else the even spacing.

    Raises:
        OptionError: the places are not as many as the predictors, or a mode is given.
    """
    if reduction.pattern is not None:
        methods = reduction.methods(depth)
    elif reduction.mode is not Mode.WEIGHTED_MLERP or reduction.prune_layers is not None:
        raise OptionError(
            f"the predictors of {name} bring their method, {predictors.kind.method.word}: leave out mode and "
            "prune_layers, or give a pattern"
        )
    else:
        amounts = reduction.amounts(depth) if isinstance(reduction.r, tuple) else ()
        places = {layer for layer, amount in enumerate(amounts) if amount} or set(predictors.places(depth))
        places -= set(reduction.exclude_layers)
        methods = tuple(predictors.kind.method if layer in places else Method.NONE for layer in range(depth))
    places_given = [layer for layer, method in enumerate(methods) if method is not Method.NONE]
    if len(places_given) != predictors.count:
        without = ", without exclude_layers" if reduction.exclude_layers else ""
        raise OptionError(
            f"{name} has {predictors.count} predictors, but tokens leave before {len(places_given)} blocks "
            f"({', '.join(map(str, places_given)) or 'none'}): name {predictors.count}, such as "
            f"{', '.join(map(str, predictors.places(depth)))}, by a pattern or a list of r{without}"
        )
    return methods


def kept_by_share(keep_rate: float, patches: int, methods: Sequence[Method]) -> tuple[int, ...]:
    """Return the tokens that leave in each layer if the n-th that reduces keeps the share keep_rate^n of all patches.

    Where tokens merge, the package token stays besides, and is not counted.

    Source: arXiv 2106.02034, section 3.4, with the product rounded down.
    """
    removed = []
    candidates, share = patches, Fraction(1)
    for method in methods:
        leaving = 0
        if method is not Method.NONE:
            share *= Fraction(str(keep_rate))  # exactly what was written
            kept = max(int(share * patches), 1)
            leaving = max(candidates - kept - method.merges, 0)
            candidates = kept if leaving else candidates
        removed.append(leaving)
    return tuple(removed)
