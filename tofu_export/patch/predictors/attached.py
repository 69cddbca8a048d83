"""Predictors as part of a timm model: told from the names in a checkpoint, put into the model, and asked.

They are the attribute `score_predictor` of the model, as in the published checkpoints, so that its state dict has the
names of those files. The model's own forward does not use them; a plan does (`Selection.PREDICTOR`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import pad

from tofu_export.errors import UnsupportedModelError
from tofu_export.patch.importance import LEAST_IMPORTANCE
from tofu_export.patch.predictors.dynamicvit import DynamicPredictor
from tofu_export.patch.predictors.spvit import SoftPredictor
from tofu_export.patch.state import TokenState
from tofu_export.planning.trained import PredictorKind, Predictors

__all__ = ["ATTRIBUTE", "PredictorShape", "attach", "importance_of", "predictors_of"]

ATTRIBUTE = "score_predictor"
"""Name of the predictors in a model and in its state dict."""

STAYS = 2.0
"""Importance of a package token: over every keep score, so that no later layer removes it."""

_KINDS: dict[type, PredictorKind] = {DynamicPredictor: PredictorKind.DYNAMICVIT, SoftPredictor: PredictorKind.SPVIT}


@dataclass(frozen=True)
class PredictorShape:
    """Kind and number of the predictors in a checkpoint.

    Attributes:
        kind: how they score tokens.
        count: number of predictors.
        heads: heads of each, 1 without.
    """

    kind: PredictorKind
    count: int
    heads: int = 1

    @classmethod
    def read(cls, tensors: Mapping[str, Tensor]) -> PredictorShape | None:
        """Tell predictors by the names of a state dict; None if there are none.

        Numbers are counted, not checked: a state dict that mixes kinds, or lacks one, does not fit the model then.
        """
        found = [re.fullmatch(rf"{ATTRIBUTE}\.(\d+)\.(\w+)(?:\.(\d+))?\..+", name) for name in tensors]
        parts = [match for match in found if match is not None]
        if not parts:
            return None
        count = len({match[1] for match in parts})
        if not any(match[2] == "senet" for match in parts):
            return cls(PredictorKind.DYNAMICVIT, count)
        return cls(PredictorKind.SPVIT, count, len({match[3] for match in parts if match[2] == "in_conv"}))


def attach(model: nn.Module, shape: PredictorShape, *, name: str = "the model") -> nn.Module:
    """Put untrained predictors into a model in place, to be loaded or trained, and return it.

    Raises:
        UnsupportedModelError: the model is no DeiT, or its width does not divide into the heads.
    """
    if type(model) is not VisionTransformer or model.num_prefix_tokens != 1 or model.cls_token is None:
        raise UnsupportedModelError(
            f"{name} cannot have the predictors of {shape.kind.value}: they are made for vision transformers with a "
            "class token and no other prefix token, such as deit_small_patch16_224"
        )
    width = int(model.embed_dim)
    if shape.heads < 1 or width % (4 * shape.heads):
        raise UnsupportedModelError(
            f"{name} has {width} channels, which do not divide into {shape.heads} heads of a multiple of 4, as the "
            f"predictors of {shape.kind.value} need"
        )
    made: list[nn.Module] = [
        SoftPredictor(width, shape.heads) if shape.kind is PredictorKind.SPVIT else DynamicPredictor(width)
        for _ in range(shape.count)
    ]
    setattr(model, ATTRIBUTE, nn.ModuleList(made).train(model.training))
    return model


def predictors_of(model: nn.Module) -> Predictors | None:
    """Return what a plan needs to know about the predictors of a model; None if it has none of a known kind."""
    attached: Any = getattr(model, ATTRIBUTE, None)
    first = attached[0] if isinstance(attached, nn.ModuleList) and attached else None
    kind = _KINDS.get(type(first))
    return None if first is None or kind is None else Predictors(kind, len(attached), sum(map(_macs, first.modules())))


def importance_of(predictor: nn.Module, state: TokenState, prefix: int, *, packs: bool) -> Tensor:
    """Return the importance of the tokens that enter a block, [B, N] float32: their probability to stay.

    Args:
        predictor: the predictor of the block.
        state: the tokens, and their sizes if `packs`.
        prefix: protected tokens at the front, which are not scored.
        packs: a token of a size over 1 is a package token, which stays.
    """
    scores: Tensor = predictor(state.tokens[:, prefix:])[..., 0].clamp_min(LEAST_IMPORTANCE)
    if packs and state.sizes is not None:
        scores = torch.where(state.sizes[:, prefix:, 0] > 1, STAYS, scores)
    return pad(scores, (prefix, 0), value=1.0)


def _macs(module: nn.Module) -> int:
    """Return the multiply-accumulates of one layer per token, as in `describe`."""
    if isinstance(module, nn.Linear):
        return module.in_features * module.out_features
    return 5 * module.normalized_shape[0] if isinstance(module, nn.LayerNorm) else 0
