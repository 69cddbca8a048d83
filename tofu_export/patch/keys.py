"""The attention keys of a block, read off its own call to scaled dot-product attention.

Upstream's attention runs untouched: whatever it does to the keys first (bias, qk-norm, rotary positions) is in them,
and the traced graph gains no node for the capture itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from tofu_export.errors import UnsupportedModelError

__all__ = ["CapturedAttention", "metric_of"]


class CapturedAttention(TorchFunctionMode):
    """While active, keeps the keys [B, H, N, D] given to `scaled_dot_product_attention`."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run `func` unchanged; note its keys if it is the attention."""
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention:
            self.keys.append(kwargs["key"] if "key" in kwargs else args[1])
        return func(*args, **kwargs)


def metric_of(capture: CapturedAttention, layer: int) -> Tensor:
    """The matching metric of a block: its keys averaged over heads, [B, N, D].

    Raises:
        UnsupportedModelError: the block did not call the fused attention exactly once.

    Source: arXiv 2312.01026, section 3.1 (keys), as in ToMe (arXiv 2210.09461, section 3).
    """
    if len(capture.keys) != 1:
        raise UnsupportedModelError(
            f"block {layer} called scaled_dot_product_attention {len(capture.keys)} times, expected once: "
            "its keys cannot be told. Set fused_attn=True on its attention, or report this architecture"
        )
    return capture.keys[0].mean(dim=1)
