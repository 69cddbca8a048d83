"""Capture the keys of a block's own scaled dot-product attention, and reduce its mask with the tokens.

Upstream's attention runs untouched: whatever it does to the keys first (bias, qk-norm, rotary positions) is in them,
and the traced graph gains no node for the capture itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from timm.layers.attention import Attention, AttentionRope
from timm.layers.diff_attention import DiffAttention
from timm.models.beit import Attention as BeitAttention
from timm.models.cait import TalkingHeadAttn
from timm.models.eva import EvaAttention
from timm.models.vision_transformer import DiffParallelScalingBlock, ParallelScalingBlock
from timm.models.vision_transformer_relpos import RelPosAttention
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from tofu_export.errors import UnsupportedModelError
from tofu_export.patch.importance import LEAST_IMPORTANCE
from tofu_export.patch.places import place_bias
from tofu_export.patch.state import TokenState

__all__ = ["ATTENTION_CALLS", "CapturedAttention", "mean_over_heads", "unrotated_keys"]

ATTENTION_CALLS: dict[type[nn.Module], int] = {
    Attention: 1,
    AttentionRope: 1,
    BeitAttention: 1,
    DiffAttention: 2,
    DiffParallelScalingBlock: 2,
    EvaAttention: 1,
    ParallelScalingBlock: 1,
    RelPosAttention: 1,
    TalkingHeadAttn: 0,
}
"""Known attention modules, and how often one forward calls the fused attention. Matched exactly."""


class CapturedAttention(TorchFunctionMode):
    """Torch function mode that keeps the keys of `scaled_dot_product_attention`, and reduces its mask with the tokens.

    Args:
        state: a bias that is added to the scores, and positions, by which rows and columns of a relative position
            bias are picked.

    Attributes:
        keys: [B, H, N, D] of every call, in order.
        queries: [B, H, N, D] of every call.
        biases: what was added to the scores of every call.
        scales: what the products were multiplied by in every call.
        relative: True once a call had a mask of its own, which is a relative position bias.
    """

    def __init__(self, state: TokenState) -> None:
        super().__init__()
        self.state = state
        self.keys: list[Tensor] = []
        self.queries: list[Tensor] = []
        self.biases: list[Tensor | None] = []
        self.scales: list[float] = []
        self.relative = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run `func` unchanged, except for the mask of the attention."""
        kwargs = kwargs or {}
        if func is not scaled_dot_product_attention:
            return func(*args, **kwargs)
        query = kwargs["query"] if "query" in kwargs else args[0]
        self.queries.append(query)
        self.keys.append(kwargs["key"] if "key" in kwargs else args[1])
        scale = kwargs.get("scale")
        self.scales.append(query.shape[-1] ** -0.5 if scale is None else scale)
        mask = args[3] if len(args) > 3 else kwargs.pop("attn_mask", None)
        if mask is not self.state.bias:  # else it was added: what torch.compile's eager backend runs comes here twice
            mask = self.scores_bias(mask, self.keys[-1].dtype)
        self.biases.append(mask)
        return func(*args[:3], mask, *args[4:], **kwargs) if len(args) > 3 else func(*args, attn_mask=mask, **kwargs)

    def scores_bias(self, relative: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """Return the bias of the scores: the tokens' part of a relative position bias, plus the state's own bias."""
        bias = relative
        if bias is not None:
            self.relative = True
            bias = place_bias(bias, self.state.positions)
        if self.state.bias is not None:
            sizes = self.state.bias.to(dtype)
            bias = sizes if bias is None else bias + sizes
        return bias

    def check(self, attentions: Sequence[nn.Module], layer: int) -> None:
        """Check that every attention call of a block was captured.

        Raises:
            UnsupportedModelError: the block did not call the fused attention as often as its kind does.
        """
        expected = sum(_calls(attention) for attention in attentions)
        if len(self.keys) != expected:
            raise UnsupportedModelError(
                f"block {layer} called scaled_dot_product_attention {len(self.keys)} times, expected {expected}: "
                "its keys cannot be told. Set fused_attn=True on its attention, or report this architecture"
            )

    def metric(self, attentions: Sequence[nn.Module]) -> Tensor:
        """Return the matching metric of a block: its keys averaged over heads, [B, N, D].

        The keys of parallel attentions, and of the two halves of a differential one, count as further heads.

        Source: arXiv 2312.01026, section 3.1 (keys), as in ToMe (arXiv 2210.09461, section 3).
        """
        return mean_over_heads(self.keys)

    def class_attention(self) -> Tensor:
        """Return the attention of the first token, the class token, averaged over heads, [B, N] float32, over 0.

        Computed beside the fused attention from one row of queries. Heads of further calls count as in `metric`.

        Source: arXiv 2202.07800, section 3.2.
        """
        rows = []
        for query, key, bias, scale in zip(self.queries, self.keys, self.biases, self.scales, strict=True):
            scores = query[:, :, :1].float() @ key.float().mT * scale
            if bias is not None:
                scores = scores + bias[:, :, :1].float()
            rows.append(scores.softmax(dim=-1).squeeze(2))
        return mean_over_heads(rows).clamp_min(LEAST_IMPORTANCE)


def mean_over_heads(heads: Sequence[Tensor]) -> Tensor:
    """Average values [B, H, *] over the heads of one or more attentions, as one [B, *]."""
    return (heads[0] if len(heads) == 1 else torch.cat(list(heads), dim=1)).mean(dim=1)


@contextmanager
def unrotated_keys(attentions: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Collect the keys [B, H, N, D] of each attention after their norm, before a rotary embedding is applied.

    Upstream's attentions with such an embedding all pass their keys through `k_norm`, an identity if they have no norm.

    Raises:
        UnsupportedModelError: an attention has no `k_norm`.
    """
    norms = [getattr(attention, "k_norm", None) for attention in attentions]
    if not all(isinstance(norm, nn.Module) for norm in norms):
        raise UnsupportedModelError(
            f"{type(attentions[0]).__name__} has no k_norm, where keys are read before their rotary embedding: "
            "leave out keys='pre-rope'"
        )
    found: list[Tensor] = []

    def note(_module: nn.Module, _inputs: Any, keys: Tensor) -> None:
        found.append(keys)

    handles = [norm.register_forward_hook(note) for norm in norms if norm is not None]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _calls(attention: nn.Module) -> int:
    """Return the number of fused calls, by class, or by upstream's class if a patched block is its own attention."""
    return next(ATTENTION_CALLS[kind] for kind in type(attention).__mro__ if kind in ATTENTION_CALLS)
