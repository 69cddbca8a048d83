"""Table of the lowerings of selections. Explicit, no registration by import."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import onnx_ir as ir

from tofu_export.graph_patterns.canonical import FuseNode
from tofu_export.graph_patterns.fuse.formulation import Formulation
from tofu_export.graph_patterns.fuse.matching import Decisions, similarity
from tofu_export.graph_patterns.fuse.select_attention import select_attention
from tofu_export.graph_patterns.fuse.select_energy import select_energy
from tofu_export.graph_patterns.stage import Stage
from tofu_export.options import Selection

__all__ = ["SELECTIONS", "Inputs"]


class Inputs(NamedTuple):
    """Inputs of a selection: the metric [B, N, D], and the class attention [B, N] if given."""

    metric: ir.Value
    class_attention: ir.Value | None


Select = Callable[[Stage, FuseNode, Formulation, Inputs], Decisions]


def _two_sets(stage: Stage, fuse: FuseNode, formulation: Formulation, inputs: Inputs) -> Decisions:
    return formulation.match(stage, fuse, similarity(stage, fuse, inputs.metric))


def _energy(stage: Stage, fuse: FuseNode, _formulation: Formulation, inputs: Inputs) -> Decisions:
    return select_energy(stage, fuse, inputs.metric)


def _attention(stage: Stage, fuse: FuseNode, _formulation: Formulation, inputs: Inputs) -> Decisions:
    assert inputs.class_attention is not None  # lowering
    return select_attention(stage, fuse, inputs.class_attention)


SELECTIONS: dict[Selection, Select] = {
    Selection.BIPARTITE: _two_sets,
    Selection.ENERGY: _energy,
    Selection.CLASS_ATTENTION: _attention,
    Selection.RANDOM: _two_sets,  # all sources leave: there is nothing to rank
    Selection.STRIDED: _two_sets,
}
