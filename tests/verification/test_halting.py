"""Files whose tokens halt pass verification, and wrong ones do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests import tiny
from tests.verification.edits import Mutation, change, checked, file_of, node, set_attribute
from tofu_export.compare.outputs import TOLERANCES
from tofu_export.errors import VerificationError
from tofu_export.options import Halting, HaltingOptions, Precision, Reduction, Selection
from tofu_export.verification.eager import Checks
from tofu_export.verification.pair import verify_pair

GATE = Halting(3, 1, 0.2)
MASKED = Reduction(select=Selection.HALTING, halting=HaltingOptions.of(GATE))
PLACES = Reduction(r=(0, 4, 3), select=Selection.HALTING, halting=HaltingOptions.of(GATE))


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
@pytest.mark.parametrize("reduction", [MASKED, PLACES], ids=["masked", "places"])
@pytest.mark.parametrize("name", ["cls", "distilled"])
def test_a_right_file_passes(tmp_path: Path, name: str, reduction: Reduction, precision: Precision) -> None:
    path = file_of(tmp_path, name, reduction, precision=precision)
    result = checked(path, tiny.reduced(name, reduction), precision=precision, checks=Checks(layers=True))
    assert result.passed, result.to_dict()
    assert result.decisions.layers == ((0, 1) if reduction is MASKED else (0, 1, 2))
    assert result.decisions.wrong == 0
    if precision is Precision.FP32:
        assert result.decisions.flips == 0
        assert result.outputs.max_abs < 1e-5


def test_tokens_that_have_spent_next_to_nothing_are_ties(tmp_path: Path) -> None:
    """Their budgets differ by rounding alone, in the file otherwise than in the model."""
    early = Reduction(r=(0, 4, 3), select=Selection.HALTING, halting=HaltingOptions(1, 14))
    result = checked(file_of(tmp_path, reduction=early), tiny.reduced("cls", early))
    assert result.passed, result.to_dict()
    assert result.decisions.wrong == 0


@pytest.mark.e2e
def test_a_file_with_its_token_map_passes(tmp_path: Path) -> None:
    path = file_of(tmp_path, reduction=PLACES, token_map=True)
    assert checked(path, tiny.reduced("cls", PLACES), token_map=True).passed


@pytest.mark.parametrize("reduction", [MASKED, PLACES], ids=["masked", "places"])
def test_two_files_agree(tmp_path: Path, reduction: Reduction) -> None:
    (tmp_path / "other").mkdir()
    one, other = file_of(tmp_path, reduction=reduction), file_of(tmp_path / "other", reduction=reduction)
    result = verify_pair(
        one, other, tiny.pixels(4), tolerance=TOLERANCES[Precision.FP32], batches=(2,), source="noise", layers=True
    )
    assert result.passed, result.to_dict()


# --- Mutations -----------------------------------------------------------------------------------------------------


def steeper(proto: onnx.ModelProto) -> None:
    change(proto, "blocks.0/halt/scaled", 1, lambda value: np.full_like(value, 3.5))


def later(proto: onnx.ModelProto) -> None:
    change(proto, "blocks.1/halt/gate", 1, lambda value: np.full_like(value, 1.4))


def to_the_end(proto: onnx.ModelProto) -> None:
    change(proto, "blocks.0/halt/goes_on", 1, lambda value: np.full_like(value, 0.01))


def another_channel(proto: onnx.ModelProto) -> None:
    for index in (1, 2):
        change(proto, "blocks.0/halt/channel", index, lambda bound: bound + 5)


def from_the_front(proto: onnx.ModelProto) -> None:
    """Those with most left leave first."""
    set_attribute(node(proto, "blocks.1/fuse/match/sorted"), "largest", 1)


@pytest.mark.e2e
@pytest.mark.parametrize("mutation", [steeper, later, to_the_end, another_channel, from_the_front])
def test_wrong_decisions_fail(tmp_path: Path, mutation: Mutation) -> None:
    result = checked(file_of(tmp_path, reduction=PLACES, mutation=mutation), tiny.reduced("cls", PLACES))
    assert not result.passed
    assert result.decisions.wrong > 0


@pytest.mark.e2e
@pytest.mark.parametrize("reduction", [MASKED, PLACES], ids=["masked", "places"])
def test_halted_tokens_that_stay_visible_fail(tmp_path: Path, reduction: Reduction) -> None:
    def visible(proto: onnx.ModelProto) -> None:
        hidden = [each for each in proto.graph.initializer if numpy_helper.to_array(each).ravel().tolist() == [-1000.0]]
        assert hidden
        for each in hidden:
            each.CopyFrom(numpy_helper.from_array(np.array(-0.5, dtype=np.float32), each.name))

    path = file_of(tmp_path, reduction=reduction, mutation=visible)
    assert not checked(path, tiny.reduced("cls", reduction)).passed


@pytest.mark.e2e
def test_a_wrong_count_fails(tmp_path: Path) -> None:
    def off_by_one(proto: onnx.ModelProto) -> None:
        proto.graph.initializer.append(numpy_helper.from_array(np.array(1, dtype=np.int64), "mutant/one"))
        (maker,) = (each for each in proto.graph.node if "tokens_over_capacity" in each.output)
        maker.output[list(maker.output).index("tokens_over_capacity")] = "mutant/count"
        proto.graph.node.append(helper.make_node("Add", ["mutant/count", "mutant/one"], ["tokens_over_capacity"]))

    path = file_of(tmp_path, reduction=PLACES, mutation=off_by_one)
    assert not checked(path, tiny.reduced("cls", PLACES)).passed


@pytest.mark.e2e
def test_a_file_by_another_gate_fails(tmp_path: Path) -> None:
    other = Reduction(r=(0, 4, 3), select=Selection.HALTING, halting=HaltingOptions(2, 1, 0.2))
    assert not checked(file_of(tmp_path, reduction=PLACES), tiny.reduced("cls", other)).passed


def test_a_file_whose_tokens_do_not_halt_is_refused(tmp_path: Path) -> None:
    path = file_of(tmp_path, reduction=Reduction(r=0))
    with pytest.raises(VerificationError, match=r"layer 0 has no value blocks\.0/halt/working"):
        checked(path, tiny.reduced("cls", MASKED))
