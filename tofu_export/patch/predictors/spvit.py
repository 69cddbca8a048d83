"""SPViT's token selector: an MLP for each attention head, and a mean over heads that depends on the token.

Parameters are named as in github.com/PeiyanFlying/SPViT.

Source: arXiv 2112.13890, on its attention-based multi-head token selector.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tofu_export.patch.predictors.scoring import embedding, scorer, with_global

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

    def forward(self, tokens: Tensor, present: Tensor | None = None) -> Tensor:
        """Return the probabilities [B, N, 2] float32 to keep and to drop each of the tokens [B, N, C].

        They are the mean over heads. `present` is as in `scoring.with_global`.
        """
        parts = tokens.reshape(*tokens.shape[:2], self.heads, -1)
        weights = self.senet(parts.mean(dim=-1)).float()
        logits = [
            score(with_global(embed(part), present))
            for embed, score, part in zip(self.in_conv, self.out_conv, parts.unbind(dim=2), strict=True)
        ]
        shares: Tensor = (weights / weights.sum(dim=-1, keepdim=True)).unsqueeze(-1)
        by_head = torch.stack(logits, dim=2).float().softmax(dim=-1)
        return (by_head * shares).sum(dim=2)
