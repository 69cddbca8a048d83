"""Options that a user can set, as frozen values that are validated on construction.

The command line and the Python API build the same objects, so both refuse the same values with the same messages.
"""

from tofu_export.options.halting import Halting, HaltingOptions
from tofu_export.options.kinds import (
    DEFAULT_R,
    MINIMUM_OPSET,
    OVER_CAPACITY,
    PATCH_GROUPS,
    PLAN_SUFFIXES,
    PROP_ATTN,
    AttentionForm,
    BatchRange,
    IoType,
    KeySource,
    Method,
    Mode,
    OutputKind,
    Precision,
    PrunedSizes,
    Schedule,
    Target,
    parse_layers,
    parse_precisions,
    parse_r,
)
from tofu_export.options.quantization import Quantization
from tofu_export.options.reduction import Reduction
from tofu_export.options.selection import Positions, Roles, Selection, energy_margin
from tofu_export.options.texts import parse_batches, parse_names

__all__ = [
    "DEFAULT_R",
    "MINIMUM_OPSET",
    "OVER_CAPACITY",
    "PATCH_GROUPS",
    "PLAN_SUFFIXES",
    "PROP_ATTN",
    "AttentionForm",
    "BatchRange",
    "Halting",
    "HaltingOptions",
    "IoType",
    "KeySource",
    "Method",
    "Mode",
    "OutputKind",
    "Positions",
    "Precision",
    "PrunedSizes",
    "Quantization",
    "Reduction",
    "Roles",
    "Schedule",
    "Selection",
    "Target",
    "energy_margin",
    "parse_batches",
    "parse_layers",
    "parse_names",
    "parse_precisions",
    "parse_r",
]
