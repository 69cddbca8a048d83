"""Supported models, and the reasons why others are refused."""

from __future__ import annotations

from typing import Any

from timm.models.beit import Beit
from timm.models.cait import Cait
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.naflexvit import NaFlexVit
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_relpos import VisionTransformerRelPos
from torch import nn

from tofu_export.errors import UnsupportedModelError
from tofu_export.patch.blocks import ADAPTERS, adapter_for
from tofu_export.patch.keys import ATTENTION_CALLS

__all__ = ["MODELS", "REFUSED", "block_prefix", "check_supported", "has_class_token", "whole_prefix"]

MODELS: tuple[type[nn.Module], ...] = (
    VisionTransformer,
    VisionTransformerDistilled,
    Eva,
    Beit,
    VisionTransformerRelPos,
    Cait,
    NaFlexVit,
)
"""Supported model classes, matched exactly: a subclass may have another forward."""

_GRID = "its encoder ends by laying all tokens out as the grid again"

REFUSED: dict[str, str] = {
    "ConVit": "its first blocks weigh attention by a position gate for all pairs of tokens, which does not follow them",
    "DeepseekVitClassifier": _GRID,
    "DeepseekVitEncoder": _GRID,
    "Gemma4VitClassifier": _GRID,
    "Gemma4VitEncoder": _GRID,
    "Qwen3VitClassifier": _GRID,
    "Qwen3VitEncoder": _GRID,
    "TNT": "a sequence of pixels runs beside each token, block by block",
    "VOLO": "its outlook attention works on windows of the token grid, at two resolutions",
    "VisionTransformerSAM": "its attention works on windows of the token grid, and its neck convolves over that grid",
    "Xcit": "each block convolves over the token grid, and attends between channels rather than tokens",
}
"""Vision transformers that are refused, by class name, with the reason."""


def block_prefix(model: nn.Module) -> int:
    """Count the class, distillation and register tokens at the front of the sequence that enters the blocks of a model.

    CaiT has one, but it joins after the blocks.
    """
    return 0 if isinstance(model, Cait) else whole_prefix(model)


def whole_prefix(model: nn.Module) -> int:
    """Count the prefix tokens of the sequence that leaves a model. CaiT has no attribute for it before timm 1.0.31."""
    architecture: Any = model
    return 1 if isinstance(model, Cait) else int(architecture.num_prefix_tokens)


def has_class_token(model: nn.Module) -> bool:
    """True if the first token that enters the blocks is a class token. NaFlexVit keeps it in its embedding module."""
    architecture: Any = model
    holder = getattr(architecture, "embeds", None) if isinstance(model, NaFlexVit) else architecture
    return block_prefix(model) > 0 and getattr(holder, "cls_token", None) is not None


def check_supported(model: nn.Module, name: str) -> None:
    """Check that an unpatched model can be reduced.

    Raises:
        UnsupportedModelError: names the first thing that is not supported.
    """
    architecture: Any = model
    kind = type(model).__name__
    if type(model) not in MODELS:
        reason = REFUSED.get(kind, "its tokens do not pass through plain transformer blocks")
        raise UnsupportedModelError(
            f"{name} is a {kind}, which Token Fusion is not implemented for: {reason}. Supported are timm's "
            f"{', '.join(model_kind.__name__ for model_kind in MODELS)}; see docs/models.md"
        )
    for index, block in enumerate(architecture.blocks):
        adapter = adapter_for(block)
        if adapter is None:
            raise UnsupportedModelError(
                f"{name}: block {index} is a {type(block).__name__}, supported block kinds are "
                f"{', '.join(adapter.kind.__name__ for adapter in ADAPTERS)}; see docs/models.md"
            )
        if "forward" in vars(block):
            raise UnsupportedModelError(
                f"{name}: block {index} has a forward of its own, set on the instance, which would hide the reduction: "
                "delete that attribute first"
            )
        for attention in adapter.attentions(block):
            if type(attention) not in ATTENTION_CALLS:
                raise UnsupportedModelError(
                    f"{name}: block {index} uses {type(attention).__name__}, supported are timm's "
                    f"{', '.join(sorted({known.__name__ for known in ATTENTION_CALLS}))}; see docs/models.md"
                )
    if getattr(architecture, "grad_checkpointing", False):
        raise UnsupportedModelError(
            f"{name} has gradient checkpointing on, which cannot pass token sizes along: "
            "call model.set_grad_checkpointing(False) first"
        )
