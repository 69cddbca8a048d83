"""Judge a model, reduced or not, on images: `tofu-export eval`."""

from tofu_export.evaluate.classes import ClassOrder
from tofu_export.evaluate.images import ImageSource, demo_source, folder_source
from tofu_export.evaluate.run import EvalRequest, EvalResult, evaluate

__all__ = ["ClassOrder", "EvalRequest", "EvalResult", "ImageSource", "demo_source", "evaluate", "folder_source"]
