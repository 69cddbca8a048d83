"""The eager reference: Token Fusion inside an unmodified timm model.

`apply` switches a model to its reduced form and `remove` reverts it. Weights, parameter names and upstream's
sub-modules stay as they are.
"""

from tofu_export.patch.apply import applied_plan, apply, check_plan, remove
from tofu_export.patch.fuse import Step, fuse
from tofu_export.patch.observe import observe
from tofu_export.patch.outputs import choose_output, output_names, outputs_of, reads_patches

__all__ = [
    "Step",
    "applied_plan",
    "apply",
    "check_plan",
    "choose_output",
    "fuse",
    "observe",
    "output_names",
    "outputs_of",
    "reads_patches",
    "remove",
]
