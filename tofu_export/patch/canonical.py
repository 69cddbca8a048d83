"""Keep attention and GELU in a traced graph as one `tofu::` node each, to be lowered for each target.

Left to the exporter, scaled dot-product attention becomes a chain with shape arithmetic at opset 18, an operator that
TensorRT-RTX cannot build in float32 at opset 23, and an export failure where the mask is computed. GELU becomes, below
opset 20, a form that onnxruntime does not fuse (7 % of ViT-B's time). Both with torch 2.14; remove this once one form
suits all targets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from tofu_export.errors import ExportError

__all__ = ["CanonicalOperators"]


class CanonicalOperators(TorchFunctionMode):
    """Torch function mode that traces `gelu` to `tofu::Gelu` and `scaled_dot_product_attention` to `tofu::Attention`.

    Attention takes [B, H, N, D]; attribute `scale` multiplies the scores; with a bias, which broadcasts to
    [B, H, N, M], the node is `tofu::BiasedAttention`. Only for tracing: the nodes have no eager implementation.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace GELU and attention, run any other function unchanged."""
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention:
            return _symbolic_attention(*args, **kwargs)
        if func is gelu:
            return _symbolic_gelu(*args, **kwargs)
        return func(*args, **kwargs)


def _symbolic_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if dropout_p or is_causal or enable_gqa:
        raise ExportError("attention with dropout, a causal mask or grouped queries is not supported: use model.eval()")
    if attn_mask is not None and not attn_mask.is_floating_point():
        raise ExportError(f"attention mask of type {attn_mask.dtype} is not supported, expected an additive float mask")
    inputs = (query, key, value) if attn_mask is None else (query, key, value, attn_mask)
    return torch.onnx.ops.symbolic(
        "tofu::Attention" if attn_mask is None else "tofu::BiasedAttention",
        inputs,
        {"scale": query.shape[-1] ** -0.5 if scale is None else scale},
        dtype=query.dtype,
        shape=(*query.shape[:-1], value.shape[-1]),
        version=1,
    )


def _symbolic_gelu(x: Tensor, approximate: str = "none") -> Tensor:
    attributes: dict[str, Any] = {"approximate": approximate}
    return torch.onnx.ops.symbolic("tofu::Gelu", (x,), attributes, dtype=x.dtype, shape=x.shape, version=1)
