"""Trained predictors of the tokens to keep, under the names of the published checkpoints."""

from tofu_export.patch.predictors.attached import ATTRIBUTE, PredictorShape, attach, importance_of, predictors_of
from tofu_export.patch.predictors.dynamicvit import DynamicPredictor
from tofu_export.patch.predictors.spvit import SoftPredictor

__all__ = [
    "ATTRIBUTE",
    "DynamicPredictor",
    "PredictorShape",
    "SoftPredictor",
    "attach",
    "importance_of",
    "predictors_of",
]
