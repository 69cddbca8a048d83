"""Files with attention in each form."""

from __future__ import annotations

import onnx_ir as ir

from tests import tiny
from tofu_export.graph_patterns.attention.forms import write_attention
from tofu_export.options import AttentionForm, Precision, Reduction, Target

SOME = Reduction(r=(3, 2, 4), pattern="PAM")


def written(form: AttentionForm, precision: Precision = Precision.FP16, target: Target = Target.PORTABLE) -> ir.Model:
    model = tiny.lowered("cls", SOME, target, precision=precision)
    write_attention(model, form)
    return model
