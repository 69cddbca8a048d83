"""Files of every selection pass verification, and wrong decisions in them do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests import tiny
from tests.verification.edits import Mutation, checked, file_of, set_attribute
from tofu_export.compare.decisions import Decisions, Scores, judge
from tofu_export.compare.outputs import TOLERANCES
from tofu_export.errors import VerificationError
from tofu_export.options import Precision, Reduction, Selection, Target
from tofu_export.verification.eager import Checks
from tofu_export.verification.pair import verify_pair

KINDS = [select for select in Selection if select is not Selection.BIPARTITE and not select.is_trained]
AMOUNTS = (3, 2, 2)


def reduction_of(select: Selection, pattern: str = "PAM") -> Reduction:
    return Reduction(r=AMOUNTS, pattern=pattern, select=select)


@pytest.mark.e2e
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
@pytest.mark.parametrize("select", KINDS)
def test_a_right_file_passes(tmp_path: Path, select: Selection, precision: Precision) -> None:
    path = file_of(tmp_path, reduction=reduction_of(select), precision=precision)
    result = checked(path, tiny.reduced("cls", reduction_of(select)), precision=precision, checks=Checks(layers=True))
    assert result.passed, result.to_dict()
    assert result.decisions.layers == (0, 1)  # the class token does not see the last reduction
    assert result.decisions.compared > 0
    assert result.decisions.wrong == 0
    if precision is Precision.FP32:
        assert result.decisions.flips == 0


@pytest.mark.e2e
@pytest.mark.parametrize("select", KINDS)
def test_a_file_for_onnxruntime_alone_passes(tmp_path: Path, select: Selection) -> None:
    reduction = reduction_of(select, "TWA")
    path = file_of(tmp_path, reduction=reduction, target=Target.ONNXRUNTIME)
    assert checked(path, tiny.reduced("cls", reduction)).passed


@pytest.mark.e2e
@pytest.mark.parametrize("select", KINDS)
def test_a_file_with_its_token_map_passes(tmp_path: Path, select: Selection) -> None:
    reduction = reduction_of(select, "AMP")
    path = file_of(tmp_path, "registers", reduction, token_map=True)
    result = checked(path, tiny.reduced("registers", reduction), token_map=True)
    assert result.passed, result.to_dict()


@pytest.mark.parametrize("select", KINDS)
def test_two_files_of_a_selection_agree(tmp_path: Path, select: Selection) -> None:
    (tmp_path / "other").mkdir()
    one = file_of(tmp_path, reduction=reduction_of(select))
    other = file_of(tmp_path / "other", reduction=reduction_of(select), target=Target.ONNXRUNTIME)
    result = verify_pair(
        one, other, tiny.pixels(4), tolerance=TOLERANCES[Precision.FP32], batches=(2,), source="noise", layers=True
    )
    assert result.passed, result.to_dict()
    assert result.decisions.compared > 0
    assert result.decisions.flips == 0


# --- Mutations of block 1, which averages ------------------------------------------------------------------------


def node(proto: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(each for each in proto.graph.node if each.name == f"blocks.1/fuse/match/{name}")


def backwards(proto: onnx.ModelProto) -> None:
    order = node(proto, "sorted")
    (largest,) = (each.i for each in order.attribute if each.name == "largest")
    set_attribute(order, "largest", 1 - largest)


def swapped(proto: onnx.ModelProto) -> None:
    """What should be joined leaves, and the reverse."""
    matched, partners = node(proto, "matched"), node(proto, "partners")
    matched.output[0], partners.output[0] = partners.output[0], matched.output[0]


def farthest(proto: onnx.ModelProto) -> None:
    node(proto, "nearest").op_type = "ArgMin"


def another_margin(proto: onnx.ModelProto) -> None:
    (margin,) = (each for each in proto.graph.initializer if each.name == "blocks.1/fuse/match/margin")
    margin.CopyFrom(numpy_helper.from_array(np.array(0.2, dtype=np.float32), margin.name))


def farthest_of_all(proto: onnx.ModelProto) -> None:
    met, best = node(proto, "met"), node(proto, "best")
    least = helper.make_node("ReduceMin", best.input, ["least"], name="least", keepdims=1)
    met.input[1] = "least"
    proto.graph.node.insert(list(proto.graph.node).index(met), least)


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("select", "mutation"),
    [
        (Selection.ENERGY, backwards),
        (Selection.ENERGY, swapped),
        (Selection.ENERGY, farthest),
        (Selection.ENERGY, another_margin),
        (Selection.CLASS_ATTENTION, backwards),
        (Selection.RANDOM, farthest_of_all),
        (Selection.STRIDED, farthest_of_all),
    ],
)
def test_wrong_decisions_fail_though_the_arithmetic_is_right(
    tmp_path: Path, select: Selection, mutation: Mutation
) -> None:
    path = file_of(tmp_path, reduction=reduction_of(select), mutation=mutation)
    result = checked(path, tiny.reduced("cls", reduction_of(select)))
    assert not result.passed
    assert result.decisions.wrong > 0
    assert result.decisions.largest_margin > result.tolerance.near_tie
    assert result.outputs.within(result.tolerance)  # under the same decisions


@pytest.mark.e2e
@pytest.mark.parametrize("select", [Selection.RANDOM, Selection.STRIDED])
def test_other_places_than_the_plans_fail(tmp_path: Path, select: Selection) -> None:
    """They are constants, no decisions: what the file gives is wrong then."""

    def elsewhere(proto: onnx.ModelProto) -> None:
        for tensor in proto.graph.initializer:
            if tensor.name.startswith("blocks.1/fuse/") and tensor.name.endswith("sources/places"):
                moved = np.sort((numpy_helper.to_array(tensor) % 12) + 1)
                tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))

    path = file_of(tmp_path, reduction=reduction_of(select), mutation=elsewhere)
    result = checked(path, tiny.reduced("cls", reduction_of(select)))
    assert not result.passed


@pytest.mark.e2e
@pytest.mark.parametrize("select", [Selection.ENERGY, Selection.CLASS_ATTENTION])
def test_decisions_of_another_kind_than_the_models_are_refused(tmp_path: Path, select: Selection) -> None:
    path = file_of(tmp_path, reduction=reduction_of(select, "AMA"))
    with pytest.raises(VerificationError, match="which the plan knows nothing of"):
        checked(path, tiny.reduced("cls", reduction_of(Selection.RANDOM, "AMA")))


@pytest.mark.e2e
def test_other_fixed_places_than_the_models_fail(tmp_path: Path) -> None:
    path = file_of(tmp_path, reduction=reduction_of(Selection.RANDOM))
    assert not checked(path, tiny.reduced("cls", reduction_of(Selection.STRIDED))).passed


# --- Judging ranks -----------------------------------------------------------------------------------------------

ENERGIES = np.array([[0.9, 0.8, 0.7, 0.6, 0.3]], dtype=np.float32)
PAIRS = np.full((1, 5, 5), 0.5, dtype=np.float32)
PAIRS[0, 0, 3] = PAIRS[0, 2, 1] = 0.75


def pool(matched: list[int], partners: list[int], joined: list[int]) -> Decisions:
    kept = [source for source in range(5) if source not in matched]
    return Decisions(
        np.array([kept]), np.array([matched]), np.array([[kept.index(each) for each in joined]]), np.array([partners])
    )


RIGHT = pool([0, 2], [1, 3], [3, 1])


def test_equal_ranks_have_no_flip() -> None:
    report = judge(0, RIGHT, Scores(PAIRS, ENERGIES), RIGHT, 1e-3)
    assert (report.compared, report.flips, report.faults) == (6, 0, ())


@pytest.mark.parametrize(
    ("got", "near_tie", "flips", "wrong"),
    [
        (pool([0, 3], [1, 2], [1, 1]), 0.11, 2, 0),  # ranks 2 and 3 change places
        (pool([0, 3], [1, 2], [1, 1]), 0.09, 2, 2),
        (pool([0, 2], [1, 4], [1, 1]), 0.31, 1, 0),  # a protected token is joined instead
        (pool([0, 2], [1, 4], [1, 1]), 0.29, 1, 1),
        (pool([0, 2], [1, 3], [1, 1]), 0.26, 1, 0),  # another partner
        (pool([0, 2], [1, 3], [1, 1]), 0.24, 1, 1),
        (pool([4, 2], [1, 3], [3, 1]), 0.25, 2, 1),  # what stands alone leaves
    ],
)
def test_flips_of_ranks_are_judged_by_their_margin(got: Decisions, near_tie: float, flips: int, wrong: int) -> None:
    report = judge(0, got, Scores(PAIRS, ENERGIES), RIGHT, near_tie)
    assert (report.flips, report.wrong, report.faults) == (flips, wrong, ())


def test_pairs_near_the_threshold_may_move_an_energy() -> None:
    """Of five pairs one is at the threshold, which moves an energy by a fifth of it."""
    pairs = PAIRS.copy()
    pairs[0, 3, 0] = 0.4
    got = pool([0, 3], [1, 2], [1, 1])
    assert judge(0, got, Scores(pairs, ENERGIES, None), RIGHT, 0.03).wrong > 0
    assert judge(0, got, Scores(pairs, ENERGIES, 0.41), RIGHT, 0.03).wrong == 0


@pytest.mark.parametrize(
    ("got", "message"),
    [
        (pool([0, 2], [1, 3], [4, 1]), "a target is not a partner"),
        (Decisions(RIGHT.kept, RIGHT.matched, RIGHT.target, np.array([[0, 3]])), "a partner does not stay"),
        (Decisions(RIGHT.kept, RIGHT.matched, RIGHT.target, np.array([[1, 3, 4]])), "3 partners, expected 2"),
    ],
)
def test_impossible_pools_are_wrong(got: Decisions, message: str) -> None:
    report = judge(4, got, Scores(PAIRS, ENERGIES), RIGHT, 2.0)
    assert report.wrong > 0
    assert report.faults == (f"layer 4: {message}",)
