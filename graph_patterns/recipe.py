"""How a whole graph is lowered: reductions, attention, hidden layers."""

from __future__ import annotations

from dataclasses import dataclass

from tofu_export.graph_patterns.attention.decomposed import decomposed
from tofu_export.graph_patterns.attention.rules import Attend
from tofu_export.graph_patterns.fuse.formulation import Formulation

__all__ = ["Recipe"]


@dataclass(frozen=True)
class Recipe:
    """One way to lower a canonical graph.

    Attributes:
        formulation: how a reduction matches and merges.
        attend: how attention is written.
        widened: hidden layers are widened where that spares cache conflicts (`hidden_width`).
    """

    formulation: Formulation
    attend: Attend = decomposed
    widened: bool = False

    def __str__(self) -> str:
        return f"{self.formulation}, {self.attend.__name__}{', widened' if self.widened else ''}"
