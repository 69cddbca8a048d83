"""DynamicViT's prediction module: an MLP on the features of each token and on their mean.

Parameters are named as in github.com/raoyongming/DynamicViT. The first of the two outputs is the probability to keep a
token, as in that repository's code and checkpoints; the paper's text has it second.

Source: arXiv 2106.02034, section 3.2.
"""

from __future__ import annotations

from torch import Tensor, nn

from tofu_export.patch.predictors.scoring import embedding, scorer, with_global

__all__ = ["DynamicPredictor"]


class DynamicPredictor(nn.Module):
    """Predictor of the probability to keep each token.

    Args:
        width: channels C of a token.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_conv = embedding(width)
        self.out_conv = scorer(width)

    def forward(self, tokens: Tensor, present: Tensor | None = None) -> Tensor:
        """Return the probabilities [B, N, 2] float32 to keep and to drop each of the tokens [B, N, C].

        `present` is as in `scoring.with_global`.
        """
        logits: Tensor = self.out_conv(with_global(self.in_conv(tokens), present))
        return logits.float().softmax(dim=-1)
