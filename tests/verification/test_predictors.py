"""Files whose tokens were chosen by trained predictors pass verification, and wrong decisions in them do not."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import helper

from tests import predictors, tiny
from tests.predictors import KINDS
from tests.verification.edits import Mutation, checked, node, set_attribute, written
from tofu_export.graph_patterns.lowering import lower
from tofu_export.options import Precision, Reduction, Selection, Target
from tofu_export.planning.trained import PredictorKind
from tofu_export.trace.export import trace
from tofu_export.verification.eager import Checks
from tofu_export.verification.result import VerificationResult

EARLY = Reduction(r=(6, 4, 0), select=Selection.PREDICTOR)
"""Both reductions before the last block, which the class token sees."""


def verified(
    folder: Path,
    kind: PredictorKind,
    reduction: Reduction = EARLY,
    *,
    precision: Precision = Precision.FP32,
    target: Target = Target.PORTABLE,
    token_map: bool = False,
    mutation: Mutation | None = None,
) -> VerificationResult:
    model = predictors.reduced(kind, reduction)
    graph = trace(model, tiny.SHAPE, precision=precision, token_map=token_map)
    path = written(folder, lower(graph, target, precision), mutation)
    return checked(path, model, precision=precision, token_map=token_map, checks=Checks(layers=True))


@pytest.mark.e2e
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_right_file_passes(tmp_path: Path, kind: PredictorKind, precision: Precision) -> None:
    result = verified(tmp_path, kind, precision=precision)
    assert result.passed, result.to_dict()
    assert result.decisions.layers == (0, 1)
    assert result.decisions.wrong == 0
    assert result.decisions.compared >= 10 * len(tiny.pixels(1))
    if precision is Precision.FP32:
        assert result.decisions.flips == 0


@pytest.mark.e2e
@pytest.mark.parametrize("kind", KINDS)
def test_the_reduction_before_the_last_block_is_in_the_file(tmp_path: Path, kind: PredictorKind) -> None:
    """The class token attends to what it leaves, other than where tokens leave after the attention."""
    result = verified(tmp_path, kind, predictors.reduction(0.6), target=Target.ONNXRUNTIME)
    assert result.passed, result.to_dict()
    assert result.decisions.layers == (1, 2)


@pytest.mark.e2e
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_with_its_token_map_passes(tmp_path: Path, kind: PredictorKind) -> None:
    result = verified(tmp_path, kind, token_map=True)
    assert result.passed, result.to_dict()


@pytest.mark.e2e
@pytest.mark.parametrize("kind", KINDS)
def test_sizes_in_the_attention_pass_if_asked_for(tmp_path: Path, kind: PredictorKind) -> None:
    result = verified(tmp_path, kind, predictors.reduction(0.6, prop_attn=True, restore_grid=True))
    assert result.passed, result.to_dict()


def highest_leave(proto: onnx.ModelProto) -> None:
    set_attribute(node(proto, "blocks.1/fuse/match/sorted"), "largest", 1)


def unweighted(proto: onnx.ModelProto) -> None:
    """The package of the first reduction is a plain mean of what leaves."""
    column = node(proto, "blocks.0/fuse/importance/column")
    mutant = helper.make_node("Div", [column.input[0], column.input[0]], ["mutant"], name="mutant")
    column.input[0] = "mutant"
    proto.graph.node.insert(list(proto.graph.node).index(column), mutant)


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("kind", "mutation"),
    [
        (PredictorKind.DYNAMICVIT, highest_leave),
        (PredictorKind.SPVIT, highest_leave),
        (PredictorKind.SPVIT, unweighted),
    ],
)
def test_a_wrong_file_fails(tmp_path: Path, kind: PredictorKind, mutation: Mutation) -> None:
    result = verified(tmp_path, kind, mutation=mutation)
    assert not result.passed
    if mutation is highest_leave:
        assert result.decisions.wrong > 0
