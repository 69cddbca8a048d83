"""What makes a model bear pruning or merging, layer by layer: `tofu-export analyze`."""

from tofu_export.analyze.linearity import functional_linearity, interpolate
from tofu_export.analyze.run import Analysis, AnalyzeRequest, analyze

__all__ = ["Analysis", "AnalyzeRequest", "analyze", "functional_linearity", "interpolate"]
