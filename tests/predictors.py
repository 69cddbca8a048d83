"""The tiny model with predictors of either kind: three blocks, tokens leave before the last two."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from tests import tiny
from tofu_export import patch
from tofu_export.options import Reduction, Selection
from tofu_export.patch.describe import describe
from tofu_export.patch.predictors import PredictorShape, attach
from tofu_export.planning.plan import ModelSpec, Plan, make_plan
from tofu_export.planning.trained import PredictorKind

__all__ = ["COUNT", "KINDS", "build", "plan_of", "reduced", "reduction", "shape_of", "spec"]

KINDS = list(PredictorKind)
COUNT = 2


def shape_of(kind: PredictorKind) -> PredictorShape:
    """Two predictors, with the heads of the model if they have any."""
    return PredictorShape(kind, COUNT, tiny.HEADS if kind is PredictorKind.SPVIT else 1)


def build(kind: PredictorKind, name: str = "cls") -> nn.Module:
    """A model with predictors, in which every weight matters."""
    model = tiny.build(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        attach(model, shape_of(kind))
        tiny.make_all_weights_matter(model.score_predictor)  # type: ignore[arg-type]
    return model.eval().requires_grad_(False)


@cache
def spec(kind: PredictorKind) -> ModelSpec:
    """What a plan needs to know about it."""
    with torch.device("meta"):
        return describe(attach(tiny.MODELS["cls"].kind(**tiny.arguments("cls")).eval(), shape_of(kind)), "cls")


def reduction(keep_rate: float = 0.6, **options: object) -> Reduction:
    """Options that let the predictors choose."""
    return Reduction(keep_rate=keep_rate, select=Selection.PREDICTOR, **options)  # type: ignore[arg-type]


def plan_of(kind: PredictorKind, asked: Reduction) -> Plan:
    """The plan of the model."""
    return make_plan(spec(kind), asked)


def reduced(kind: PredictorKind, asked: Reduction) -> nn.Module:
    """The model that carries a plan."""
    return patch.apply(build(kind), plan_of(kind, asked))
