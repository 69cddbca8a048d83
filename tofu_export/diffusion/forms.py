"""Form of a UNet in a file: plain tensors in and out, under the names of diffusers' ONNX pipelines."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tofu_export.patch.canonical import CanonicalOperators

__all__ = ["UnetForm"]


class UnetForm(nn.Module):
    """UNet that takes the tensors of `UnetInputs.shapes` in order.

    Args:
        unet: the UNet, patched or not.
        dtype: type of its weights.
        io_dtype: type of image and text inputs and outputs; the noise level is always float32.
        canonical: keep attention and GELU canonical, for a trace.
    """

    def __init__(
        self,
        unet: nn.Module,
        dtype: torch.dtype = torch.float32,
        io_dtype: torch.dtype = torch.float32,
        *,
        canonical: bool = False,
    ) -> None:
        super().__init__()
        self.model = unet
        self.dtype = dtype
        self.io_dtype = io_dtype
        self.canonical = canonical

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        text_embeds: Tensor | None = None,
        time_ids: Tensor | None = None,
    ) -> tuple[Tensor]:
        """Predict the noise [B, C, H, W]."""
        added = None
        if text_embeds is not None and time_ids is not None:
            added = {"text_embeds": text_embeds.to(self.dtype), "time_ids": time_ids.to(self.dtype)}
        call: dict[str, Any] = {"added_cond_kwargs": added, "return_dict": False}
        arguments = (sample.to(self.dtype), timestep, encoder_hidden_states.to(self.dtype))
        if self.canonical:
            with CanonicalOperators():
                out = self.model(*arguments, **call)[0]
        else:
            out = self.model(*arguments, **call)[0]
        return (out.to(self.io_dtype),)
