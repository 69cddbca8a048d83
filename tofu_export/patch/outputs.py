"""What a model gives to whoever runs its file: logits, features, tokens with their map, or the grid."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tofu_export.errors import OptionError, UnsupportedModelError
from tofu_export.options import OutputKind
from tofu_export.patch.apply import applied_plan
from tofu_export.patch.support import whole_prefix
from tofu_export.patch.token_map import collect_token_map

__all__ = ["choose_output", "grid_shape", "outputs_of"]


def choose_output(model: nn.Module, asked: OutputKind | None, name: str = "the model") -> OutputKind:
    """What to give: what was asked for, else logits where there is a classifier, and features where there is none.

    Raises:
        OptionError: there is no classifier to give the logits that were asked for, or the model carries a plan that
            does not restore the grid.
        UnsupportedModelError: the model, patched or not, has no pooling for logits or features, or no grid.
    """
    architecture: Any = model
    kind = OutputKind.choose(asked, int(architecture.num_classes), name)
    if kind in (OutputKind.LOGITS, OutputKind.FEATURES) and not architecture.global_pool:
        raise UnsupportedModelError(
            f"{name} has no pooling, so its {kind.value} are a sequence of tokens, which a reduction takes apart: "
            "choose --output-kind tokens or grid, or give it one, for example "
            "timm.create_model(..., global_pool='avg')"
        )
    if kind is OutputKind.GRID:
        _patch_embedding(model, name)
        _check_restored(model)
    return kind


def grid_shape(model: nn.Module, image_size: tuple[int, int], name: str = "the model") -> tuple[int, int]:
    """Rows and columns of the patches that an image of `image_size` (height, width) is cut into.

    Raises:
        UnsupportedModelError: the model does not say.
    """
    height, width = _patch_embedding(model, name).dynamic_feat_size(image_size)
    return int(height), int(width)


def outputs_of(model: nn.Module, kind: OutputKind, pixels: Tensor) -> tuple[Tensor, ...]:
    """Run `model`, patched or not, and return what `kind` names (`OutputKind.names`).

    Args:
        model: a supported timm model.
        kind: what to return, see `OutputKind` for the shapes.
        pixels: [B, channels, height, width].

    Raises:
        OptionError: a grid is asked for, but the plan of the model does not restore it.
        UnsupportedModelError: the sequence is not the model's grid.
    """
    architecture: Any = model
    if kind is OutputKind.LOGITS:
        return (architecture(pixels),)
    if kind is OutputKind.FEATURES:
        return (architecture.forward_head(architecture.forward_features(pixels), pre_logits=True),)
    if kind is OutputKind.TOKENS:
        with collect_token_map() as found:
            tokens = architecture.forward_features(pixels)
        return tokens, _whole_map(tokens, found.tokens, found.rows)
    _check_restored(model)
    return (_as_grid(model, architecture.forward_features(pixels), pixels),)


def _check_restored(model: nn.Module) -> None:
    plan = applied_plan(model)
    if plan is not None and plan.removes and not plan.restores_grid:
        raise OptionError("a grid has all tokens: plan with Reduction(restore_grid=True), or ask for tokens")


def _whole_map(tokens: Tensor, from_blocks: int, rows: Tensor | None) -> Tensor:
    """The token map [B, N] of the whole sequence: a class token that joined after the blocks comes first (CaiT)."""
    batch, count, _ = tokens.shape
    if rows is None:
        return torch.arange(count, device=tokens.device).expand(batch, -1)
    token_map = rows.squeeze(-1)
    joined = count - from_blocks
    if not joined:
        return token_map
    front = torch.arange(joined, device=tokens.device).expand(batch, -1)
    return torch.cat([front, token_map + joined], dim=1)


def _as_grid(model: Any, tokens: Tensor, pixels: Tensor) -> Tensor:
    """The patch tokens of [B, N, C] as [B, C, height, width]."""
    height, width = grid_shape(model, (int(pixels.shape[2]), int(pixels.shape[3])))
    prefix = whole_prefix(model)
    patches = tokens[:, prefix:]
    if tokens.dim() != 3 or patches.shape[1] != height * width:
        raise UnsupportedModelError(
            f"{type(model).__name__} ends with {tokens.shape[1]} tokens, {prefix} of them no patches, "
            f"which do not fill a grid of {height}x{width}: choose --output-kind tokens"
        )
    return patches.mT.reshape(tokens.shape[0], tokens.shape[2], height, width)


def _patch_embedding(model: nn.Module, name: str) -> Any:
    embedding = getattr(model, "patch_embed", None) or getattr(model, "embeds", None)
    if not hasattr(embedding, "dynamic_feat_size"):
        raise UnsupportedModelError(f"{name} does not say how its patches lie on a grid: choose --output-kind tokens")
    return embedding
