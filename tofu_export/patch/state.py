"""State that passes from block to block in a patched model besides the tokens. Carried by value, never shared.

A shared mutable object would be cloned by `torch.export`, one copy per module, and the eager model then breaks
(torch 2.14).
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["TokenState"]


class TokenState(NamedTuple):
    """Tokens and their companions between two patched blocks.

    Attributes:
        tokens: [B, N, C].
        sizes: [B, N, 1] float32 patches behind each token, None while sizes are not tracked or all are 1.
        positions: [B, N, 1] int64, each token's own index in the sequence that entered the first block, prefix
            included; a merged token has its destination's. None while no token has left, or if nothing in the model
            depends on positions between blocks.
        rows: [B, N0, 1] int64, the row of `tokens` that stands for each token that entered the first block, prefix
            included. None while no token has left, or if not requested.
        groups: [B, patches, 1] int64, for each patch that entered the first block one more than the row of `tokens`
            that holds it, 0 once it was pruned. None while no token has left, or if not requested.
        bias: [B, 1, 1, N] in the type of `tokens`, the logarithm of `sizes`, which is added to the attention scores.
            Computed once after each reduction. None if nothing is added.
        output: [B, P, C] float32, weighted sum of the protected tokens over the blocks so far, if tokens halt. `sizes`
            are then budgets (`halting`), and `bias` hides the halted tokens.
        over: [B] int64, tokens with a budget left that had to leave, if tokens halt; None before any left.
    """

    tokens: Tensor
    sizes: Tensor | None = None
    positions: Tensor | None = None
    rows: Tensor | None = None
    groups: Tensor | None = None
    bias: Tensor | None = None
    output: Tensor | None = None
    over: Tensor | None = None

    def with_bias(self) -> TokenState:
        """Return the state with the bias that follows from `sizes`, or the state itself if there are no sizes."""
        if self.sizes is None:
            return self
        return self._replace(bias=self.sizes.log().mT.unsqueeze(1).to(self.tokens.dtype))
