"""Table of the lowerings of selections. Explicit, no registration by import."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import onnx_ir as ir

from tofu_export.graph_patterns.canonical import FuseNode
from tofu_export.graph_patterns.fuse.formulation import Formulation
from tofu_export.graph_patterns.fuse.matching import Decisions, similarity
from tofu_export.graph_patterns.fuse.select_energy import select_energy
from tofu_export.graph_patterns.fuse.select_importance import select_importance
from tofu_export.graph_patterns.stage import Stage
from tofu_export.options import Selection

__all__ = ["SELECTIONS", "Inputs"]


class Inputs(NamedTuple):
    """Inputs of a selection: the metric [B, N, D], and the importance [B, N] of tokens, where given."""

    metric: ir.Value | None
    importance: ir.Value | None


Select = Callable[[Stage, FuseNode, Formulation, Inputs], Decisions]


def _two_sets(stage: Stage, fuse: FuseNode, formulation: Formulation, inputs: Inputs) -> Decisions:
    assert inputs.metric is not None  # lowering
    return formulation.match(stage, fuse, similarity(stage, fuse, inputs.metric))


def _energy(stage: Stage, fuse: FuseNode, _formulation: Formulation, inputs: Inputs) -> Decisions:
    assert inputs.metric is not None  # lowering
    return select_energy(stage, fuse, inputs.metric)


def _importance(stage: Stage, fuse: FuseNode, _formulation: Formulation, inputs: Inputs) -> Decisions:
    assert inputs.importance is not None  # lowering
    return select_importance(stage, fuse, inputs.importance)


SELECTIONS: dict[Selection, Select] = {
    Selection.BIPARTITE: _two_sets,
    Selection.ENERGY: _energy,
    Selection.CLASS_ATTENTION: _importance,
    Selection.RANDOM: _two_sets,  # all sources leave: there is nothing to rank
    Selection.STRIDED: _two_sets,
    Selection.PREDICTOR: _importance,
    Selection.HALTING: _importance,
}
