"""Adapter for CaiT's block: two layer scales, one drop path, and talking-heads attention written as matrix products.

No fused attention is called, so the keys are read off the projection, and sizes are added where the softmax is taken.
The class token joins after these blocks: they have no prefix.

Source: arXiv 2103.17239.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.models.cait import LayerScaleBlock
from torch import Tensor, nn

from tofu_export.errors import UnsupportedModelError
from tofu_export.patch.adapters.adapter import BlockAdapter
from tofu_export.patch.keys import CapturedAttention

__all__ = ["CAIT"]


class _CapturedProjection(CapturedAttention):
    """Torch function mode that keeps linear outputs [B, N, K] in `keys`, and adds sizes before the softmax."""

    softmaxes = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run `func`, with the logarithm of sizes added to the argument of a softmax."""
        if func is torch.Tensor.softmax:
            self.softmaxes += 1
            bias = self.scores_bias(None, args[0].dtype)
            args = args if bias is None else (args[0] + bias, *args[1:])
        result = func(*args, **(kwargs or {}))
        if func is nn.functional.linear:
            self.keys.append(result)
        return result

    def check(self, attentions: Sequence[Any], layer: int) -> None:
        """Check that the attention projected first, and took one softmax."""
        width = attentions[0].qkv.out_features
        if not self.keys or self.keys[0].shape[-1] != width or self.softmaxes != 1:
            raise UnsupportedModelError(
                f"block {layer} did not project queries, keys and values first, or took {self.softmaxes} softmaxes "
                "instead of one: its keys cannot be told. Report this architecture"
            )

    def metric(self, attentions: Sequence[Any]) -> Tensor:
        """Return the middle third of the projection, averaged over heads."""
        batch, tokens, width = self.keys[0].shape
        heads = attentions[0].num_heads
        return self.keys[0].reshape(batch, tokens, 3, heads, width // 3 // heads)[:, :, 1].mean(dim=2)


def _attend(block: Any, x: Tensor) -> Tensor:
    attended: Tensor = x + block.drop_path(block.gamma_1 * block.attn(block.norm1(x)))
    return attended


def _feed(block: Any, x: Tensor) -> Tensor:
    fed: Tensor = x + block.drop_path(block.gamma_2 * block.mlp(block.norm2(x)))
    return fed


CAIT = BlockAdapter(LayerScaleBlock, _attend, _feed, ("norm2", "mlp"), capture=_CapturedProjection)
