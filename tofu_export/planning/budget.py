"""Find the smallest reduction that meets a budget of multiply-accumulates. Pure integer arithmetic, exact.

The rule. Let S(r) be the amounts that the schedule gives the layers for one number r, and let the cost of amounts be
what the model needs once they are capped.

1. r is the smallest whole number whose S(r) meets the budget.
2. Starting from S(r), amounts are lowered to S(r-1) one token at a time, the last layer first (where a token saves
   least), for as long as the budget is met.

Of all amounts between S(r-1) and S(r), layer by layer, that meet the budget, the result removes the fewest tokens in
all. Why step 2 needs no search for that:

- A layer turns n tokens into max(n - amount, half of the unprotected ones and the prefix). This neither falls when n
  grows, nor grows by more than n does, and it grows by 0 or 1 when the amount is lowered by 1. So with every step the
  cost rises or stays, and the number of tokens at the end grows by 0 or 1: no number is left out.
- To end with t tokens or more, each layer must pass on at least some least number of them. Removing as much as
  possible until that number is met exactly, and as little as possible from then on, passes on the fewest tokens after
  each layer, so it costs least of all amounts that end with t or more. These are the steps above.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from tofu_export.errors import OptionError

__all__ = ["Amounts", "Budget", "smallest_reduction"]

Amounts = tuple[int, ...]
"""Number of tokens per layer."""


@dataclass(frozen=True)
class Budget:
    """Limit of multiply-accumulates for one image.

    Attributes:
        macs: the most that the reduced model may need.
        macs_full: what the unreduced model needs.
        asked: the budget as the user gave it, for messages.
    """

    macs: int
    macs_full: int
    asked: str

    @classmethod
    def of(cls, macs_full: int, *, gmacs: float | None = None, speedup: float | None = None) -> Budget:
        """Return the limit that `gmacs`, or `speedup` over the unreduced model, sets; decimals are taken exactly.

        Raises:
            OptionError: not exactly one of the two is given.
        """
        if gmacs is not None and speedup is None:
            return cls(int(Fraction(str(gmacs)) * 10**9), macs_full, f"{gmacs:g} GMACs")
        if speedup is not None and gmacs is None:
            return cls(int(macs_full / Fraction(str(speedup))), macs_full, f"a speedup of {speedup:g}")
        raise OptionError("a budget is either gmacs or speedup: give one of them")


def smallest_reduction(
    budget: Budget,
    *,
    spread: Callable[[int], Amounts],
    capped: Callable[[Amounts], Amounts],
    macs: Callable[[Amounts], int],
    largest_r: int,
) -> Amounts:
    """Return the tokens that each layer removes, by the rule of this module.

    Args:
        budget: the limit.
        spread: S(r), none of whose entries falls when r grows.
        capped: caps amounts to what each layer can remove.
        macs: cost of capped amounts.
        largest_r: an r beyond which nothing more is removed.

    Raises:
        OptionError: not even `largest_r` meets the budget.
    """

    def meets(amounts: Amounts) -> bool:
        return macs(capped(amounts)) <= budget.macs

    if not meets(spread(largest_r)):
        least = macs(capped(spread(largest_r)))
        raise OptionError(
            f"{budget.asked} is out of reach: this model needs {budget.macs_full / 1e9:.2f} GMACs, and the smallest "
            f"number that its layers reach is {_round_up(least)}, a speedup of {_round_down(budget.macs_full, least)}. "
            "Ask for less, exclude fewer layers, or choose another schedule"
        )
    r = bisect_left(range(largest_r + 1), True, key=lambda r: meets(spread(r)))
    if r == 0:
        return capped(spread(0))
    low, high = spread(r - 1), spread(r)
    steps = sum(high) - sum(low)
    most = bisect_left(range(1, steps + 1), True, key=lambda step: not meets(_lowered(high, low, step)))
    return capped(_lowered(high, low, most))


def _lowered(high: Amounts, low: Amounts, steps: int) -> Amounts:
    """Return `high` less `steps` tokens, the last layer first, never under `low`."""
    amounts = []
    for most, least in zip(reversed(high), reversed(low), strict=True):
        taken = min(steps, most - least)
        amounts.append(most - taken)
        steps -= taken
    return tuple(reversed(amounts))


def _round_up(macs: int) -> str:
    """Return a GMACs value that can be met: never under what is needed."""
    return f"{-(-macs // 10**5) / 10**4:g}"


def _round_down(full: int, least: int) -> str:
    """Return a speedup that can be met: never over what is reached."""
    return f"{full * 100 // least / 100:.2f}"
