"""SPViT's token selector: an MLP for each attention head, and a mean over heads that depends on the token.

Parameters are named as in github.com/PeiyanFlying/SPViT.

Source: arXiv 2112.13890, section 3.2, equations 4 to 9.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tofu_export.patch.predictors.scoring import embedding, keep_scores, scorer, with_global

__all__ = ["SoftPredictor"]


class SoftPredictor(nn.Module):
    """Predictor of the probability to keep each token, head by head.

    Args:
        width: channels C of a token.
        heads: number of heads H, a divisor of C.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.senet = nn.Sequential(
            nn.Linear(heads, heads // 2), nn.GELU(), nn.Linear(heads // 2, heads), nn.Sigmoid()
        )  # fmt: skip
        self.in_conv = nn.ModuleList(embedding(width // heads) for _ in range(heads))
        self.out_conv = nn.ModuleList(scorer(width // heads) for _ in range(heads))

    def by_head(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Score tokens [B, N, C], all of which are still there.

        Returns:
            Logits [B, N, H, 2] to keep and to drop, and the share [B, N, H] float32 of each head in the mean.
        """
        parts = tokens.reshape(*tokens.shape[:2], self.heads, -1)
        weights = self.senet(parts.mean(dim=-1)).float()
        logits = [
            score(with_global(embed(part)))
            for embed, score, part in zip(self.in_conv, self.out_conv, parts.unbind(dim=2), strict=True)
        ]
        return torch.stack(logits, dim=2), weights / weights.sum(dim=-1, keepdim=True)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the probability [B, N] float32 to keep each of the tokens [B, N, C]: the mean over heads."""
        logits, shares = self.by_head(tokens)
        return (keep_scores(logits) * shares).sum(dim=-1)
