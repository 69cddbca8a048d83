"""Places for tokens that halt: how many tokens each block needs for most images. Pure Python, no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tofu_export.errors import OptionError

__all__ = ["leaving_for"]


def leaving_for(working: Sequence[Sequence[int]], share: float, tokens: int, prefix: int) -> tuple[int, ...]:
    """Return the tokens that leave before each block so that those at work have a place in `share` of the images.

    The images are those with the least work in all blocks together; each block has as many places as the one of them
    that needs most there. So all of these images compute what they would if no token left.

    Args:
        working: for each image the tokens at work in each block, without the prefix; never more than in the one before.
        share: over 0 and up to 1.
        tokens: tokens that enter the first block, prefix included.
        prefix: protected tokens.

    Raises:
        OptionError: there are no images.
    """
    if not working:
        raise OptionError("capacity is measured on images, and there are none: give some with --images")
    fitting = sorted(working, key=sum)[: math.ceil(share * len(working))]
    places = [prefix + max(1, *row) for row in zip(*fitting, strict=True)]
    places[0] = tokens  # nothing has halted yet
    return tuple(before - after for before, after in zip([tokens, *places], places, strict=False))
