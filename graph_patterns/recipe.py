"""Recipes for lowering a whole graph: reductions, attention, hidden layers."""

from __future__ import annotations

from dataclasses import dataclass

from tofu_export.graph_patterns.attention.decomposed import decomposed
from tofu_export.graph_patterns.attention.rules import Attend
from tofu_export.graph_patterns.fuse.formulation import Formulation
from tofu_export.options import AttentionForm

__all__ = ["Recipe"]


@dataclass(frozen=True)
class Recipe:
    """Recipe for lowering a canonical graph.

    Attributes:
        formulation: how a reduction matches and merges.
        attend: formulation of attention.
        attention: final form of half-precision attention.
        widened: hidden layers are widened if that avoids cache conflicts (`hidden_width`).
    """

    formulation: Formulation
    attend: Attend = decomposed
    attention: AttentionForm = AttentionForm.FUSED
    widened: bool = False

    def __str__(self) -> str:
        form = "" if self.attention is AttentionForm.FUSED else f", {self.attention.value}"
        return f"{self.formulation}, {self.attend.__name__}{form}{', widened' if self.widened else ''}"
