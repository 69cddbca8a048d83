"""Outputs of a model in an exported file: logits, features, tokens with their map, or the grid."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tofu_export.errors import OptionError, UnsupportedModelError
from tofu_export.options import OutputKind
from tofu_export.patch.apply import applied_plan
from tofu_export.patch.support import block_prefix, whole_prefix
from tofu_export.patch.token_map import TokenMap, collect_token_map
from tofu_export.planning.outputs import names_of_outputs

__all__ = [
    "check_planned",
    "choose_output",
    "grid_shape",
    "joined_later",
    "output_names",
    "outputs_of",
    "reads_patches",
]


def choose_output(model: nn.Module, asked: OutputKind | None, name: str = "the model") -> OutputKind:
    """Return the output kind: as asked, else logits if there is a classifier, and features if there is none.

    Raises:
        OptionError: there is no classifier to give the logits that were asked for, or the model carries a plan that
            does not restore the grid.
        UnsupportedModelError: the model, patched or not, has no pooling for logits or features, or no grid, or its
            tokens halt and have no output.
    """
    architecture: Any = model
    kind = OutputKind.choose(asked, int(architecture.num_classes), name)
    if kind in (OutputKind.LOGITS, OutputKind.FEATURES) and not architecture.global_pool:
        raise UnsupportedModelError(
            f"{name} has no pooling, so its {kind.value} are a sequence of tokens, which a reduction takes apart: "
            "choose --output-kind tokens or grid, or give it one, for example "
            "timm.create_model(..., global_pool='avg')"
        )
    plan = applied_plan(model)
    if plan is not None and plan.reduction.select.halts and kind not in (OutputKind.LOGITS, OutputKind.FEATURES):
        raise UnsupportedModelError(
            f"{name} has no {kind.value} to give: of tokens that halt only the class token has an output "
            "(--output-kind logits or features)"
        )
    if kind is OutputKind.GRID:
        _patch_embedding(model, name)
        _check_restored(model)
    return kind


def grid_shape(model: nn.Module, image_size: tuple[int, int], name: str = "the model") -> tuple[int, int]:
    """Return rows and columns of the patches of an image of `image_size` (height, width).

    Raises:
        UnsupportedModelError: the model does not define a grid.
    """
    height, width = _patch_embedding(model, name).dynamic_feat_size(image_size)
    return int(height), int(width)


def check_planned(model: nn.Module) -> None:
    """Check that a model can tell what became of its patches.

    Raises:
        OptionError: the model carries no plan.
    """
    if applied_plan(model) is None:
        raise OptionError("a token map follows a plan: apply one to the model first, r = 0 if nothing is to leave")


def joined_later(model: nn.Module) -> int:
    """Return how many tokens join at the front after the blocks, by which rows of the final sequence are shifted."""
    return whole_prefix(model) - block_prefix(model)


def reads_patches(model: nn.Module, kind: OutputKind, *, token_map: bool = False) -> bool:
    """True if an output (`output_names`) depends on patches after the last block, False if on class tokens only."""
    architecture: Any = model
    pooled = kind in (OutputKind.LOGITS, OutputKind.FEATURES) and architecture.global_pool == "token"
    return token_map or not pooled or joined_later(model) > 0 or block_prefix(model) == 0


def output_names(model: nn.Module, kind: OutputKind, *, token_map: bool = False) -> tuple[str, ...]:
    """Return the names of what `outputs_of` returns."""
    return names_of_outputs(kind, applied_plan(model), token_map=token_map)


def outputs_of(model: nn.Module, kind: OutputKind, pixels: Tensor, *, token_map: bool = False) -> tuple[Tensor, ...]:
    """Run a model, patched or not, and return the outputs of `kind` (`output_names`).

    The count of a model whose tokens halt and leave (`OVER_CAPACITY`) is among them.

    Args:
        model: a supported timm model.
        kind: what to return, see `OutputKind` for the shapes.
        pixels: [B, channels, height, width].
        token_map: also return the final row of each patch (`PATCH_GROUPS`), [B, patches] int64.

    Raises:
        OptionError: a grid is asked for, but the plan of the model does not restore it; or a token map, but it has no
            plan.
        UnsupportedModelError: the sequence is not the model's grid.
    """
    if token_map:
        check_planned(model)
    plan = applied_plan(model)
    counts = plan is not None and plan.counts_over_capacity
    if kind is not OutputKind.TOKENS and not token_map and not counts:
        return (_run(model, kind, pixels),)
    with collect_token_map(rows=kind is OutputKind.TOKENS, groups=token_map) as found:
        outputs = [_run(model, kind, pixels)]
    if kind is OutputKind.TOKENS:
        outputs.append(_whole_map(outputs[0], found))
    if counts:
        assert found.over is not None  # tokens left
        outputs.append(found.over)
    if token_map:
        outputs.append(_patch_groups(model, found, pixels.shape[0]))
    return tuple(outputs)


def _run(model: Any, kind: OutputKind, pixels: Tensor) -> Tensor:
    """Compute the output that depends on pixels, not on decisions."""
    if kind is OutputKind.LOGITS:
        logits: Tensor = model(pixels)
        return logits
    if kind is OutputKind.GRID:
        _check_restored(model)
        return _as_grid(model, model.forward_features(pixels), pixels)
    tokens: Tensor = model.forward_features(pixels)
    if kind is OutputKind.TOKENS:
        return tokens
    features: Tensor = model.forward_head(tokens, pre_logits=True)
    return features


def _check_restored(model: nn.Module) -> None:
    plan = applied_plan(model)
    if plan is not None and plan.removes and not plan.restores_grid:
        raise OptionError("a grid has all tokens: plan with Reduction(restore_grid=True), or ask for tokens")


def _whole_map(tokens: Tensor, found: TokenMap) -> Tensor:
    """Return the token map [B, N] of the whole sequence; a class token that joined after the blocks is first (CaiT)."""
    batch, count, _ = tokens.shape
    if found.rows is None:
        return torch.arange(count, device=tokens.device).expand(batch, -1)
    token_map = found.rows.squeeze(-1)
    joined = count - found.tokens
    if not joined:
        return token_map
    front = torch.arange(joined, device=tokens.device).expand(batch, -1)
    return torch.cat([front, token_map + joined], dim=1)


def _patch_groups(model: nn.Module, found: TokenMap, batch: int) -> Tensor:
    """Return for each patch its row of the final sequence, -1 for none, [B, patches] int64."""
    joined, prefix = joined_later(model), block_prefix(model)
    if found.groups is None:
        device = next(model.parameters()).device
        return torch.arange(joined + prefix, joined + found.tokens, device=device).expand(batch, -1)
    groups = found.groups.squeeze(-1)
    return torch.where(groups > 0, groups + (joined - 1), -1) if joined else groups - 1


def _as_grid(model: Any, tokens: Tensor, pixels: Tensor) -> Tensor:
    """Return the patch tokens of [B, N, C] as [B, C, height, width]."""
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
