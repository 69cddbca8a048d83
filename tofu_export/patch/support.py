"""Which models can be reduced, and in what words the others are refused."""

from __future__ import annotations

from typing import Any

from timm.layers.attention import Attention
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from tofu_export.errors import UnsupportedModelError
from tofu_export.patch.blocks import ADAPTERS, adapter_for

__all__ = ["MODELS", "check_supported"]

MODELS: tuple[type[nn.Module], ...] = (VisionTransformer, VisionTransformerDistilled)
"""Supported model classes, matched exactly: a subclass may have another forward."""


def check_supported(model: nn.Module, name: str) -> None:
    """Pass if `model` (not patched) can be reduced.

    Raises:
        UnsupportedModelError: names the first thing that is not supported.
    """
    architecture: Any = model
    if type(model) not in MODELS:
        raise UnsupportedModelError(
            f"{name} is a {type(model).__name__}, which Token Fusion is not implemented for: its tokens do not pass "
            "through plain transformer blocks. Supported are timm's "
            f"{' and '.join(kind.__name__ for kind in MODELS)}; see docs/models.md"
        )
    for index, block in enumerate(architecture.blocks):
        if adapter_for(block) is None:
            raise UnsupportedModelError(
                f"{name}: block {index} is a {type(block).__name__}, supported block kinds are "
                f"{', '.join(adapter.kind.__name__ for adapter in ADAPTERS)}; see docs/models.md"
            )
        if "forward" in vars(block):
            raise UnsupportedModelError(
                f"{name}: block {index} has a forward of its own, set on the instance, which would hide the reduction: "
                "delete that attribute first"
            )
        if type(block.attn) is not Attention:
            raise UnsupportedModelError(
                f"{name}: block {index} uses {type(block.attn).__name__}, supported is timm's Attention; "
                "see docs/models.md"
            )
    if getattr(architecture, "grad_checkpointing", False):
        raise UnsupportedModelError(
            f"{name} has gradient checkpointing on, which cannot pass token sizes along: "
            "call model.set_grad_checkpointing(False) first"
        )
