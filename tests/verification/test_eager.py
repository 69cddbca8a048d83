"""Verification passes what is right and fails what is not: every mutation below must be noticed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from tests import tiny
from tests.verification.edits import (
    AMOUNTS,
    SOME,
    TOME,
    Array,
    Mutation,
    change,
    checked,
    corrupted_first_weight,
    corrupted_weight,
    decisions,
    farthest,
    file_of,
    infinite_bias,
    least_similar,
    nan_bias,
    node,
    not_normalised,
    other_order,
    renamed,
    shifted_destinations,
    shifted_joining,
    shifted_kept,
    swapped_layers,
    tilted_scores,
    unsorted,
)
from tofu_export import patch
from tofu_export.compare.decisions import DecisionReport, Decisions, Scores, judge
from tofu_export.compare.outputs import TOLERANCES, OutputComparison, compare_outputs
from tofu_export.errors import VerificationError
from tofu_export.graph_patterns.canonical import decision_name
from tofu_export.options import BatchRange, Precision, PrunedSizes, Reduction, Selection, Target
from tofu_export.system.typed_json import to_plain
from tofu_export.verification.eager import batches_to_verify
from tofu_export.verification.result import LayerResult, VerificationResult

# --- What must pass ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [Target.PORTABLE, Target.ONNXRUNTIME])
@pytest.mark.parametrize("reduction", [SOME, TOME], ids=["hybrid", "tome"])
@pytest.mark.parametrize("name", ["avg", "cls"])
def test_a_right_file_passes(tmp_path: Path, name: str, reduction: Reduction, target: Target) -> None:
    """A class token does not see the last reduction, which its file leaves out."""
    seen: list[int] = []
    path = file_of(tmp_path, name, reduction=reduction, target=target)
    result = checked(path, tiny.reduced(name, reduction), on_batch=seen.append)
    assert result.passed
    assert result.batches == (1, 2, 3)
    assert seen == [1, 2, 3]
    assert result.outputs.images == 6
    assert result.outputs.max_abs < 2e-5
    assert result.outputs.top1_agreement == 1.0
    last = AMOUNTS[2] if name == "avg" else 0
    assert result.decisions.layers == ((0, 1, 2) if last else (0, 1))
    assert any("block 2: the file has none" in note for note in result.notes) is (name == "cls")
    assert result.decisions.compared == 6 * 2 * (3 + 2 + last)
    assert (result.decisions.flips, result.images_with_flips) == (0, 0)
    entry = result.to_dict()
    assert (entry["artifact"], entry["inputs"], entry["finite"]) == ("model.onnx", "noise", True)
    assert entry["tolerance"]["max_abs"] == pytest.approx(1e-4 * result.outputs.scale)


@pytest.mark.e2e
@pytest.mark.parametrize("reduction", [SOME, TOME], ids=["hybrid", "tome"])
def test_a_right_half_precision_file_passes(tmp_path: Path, reduction: Reduction) -> None:
    path = file_of(tmp_path, reduction=reduction, precision=Precision.FP16)
    result = checked(path, tiny.reduced("cls", reduction), precision=Precision.FP16)
    assert result.passed, result.to_dict()
    assert result.outputs.max_abs > 1e-5
    assert not checked(path, tiny.reduced("cls", reduction), precision=Precision.FP32).passed


@pytest.mark.e2e
def test_a_plain_file_passes_against_a_plain_model(tmp_path: Path) -> None:
    path = file_of(tmp_path, reduction=Reduction(r=0))
    for model in (tiny.build("cls"), tiny.reduced("cls", Reduction(r=0))):
        result = checked(path, model)
        assert result.passed
        assert result.decisions == DecisionReport()


@pytest.mark.e2e
@pytest.mark.parametrize("pattern", ["MMM", "PPP", "PAM"])
def test_a_file_in_which_every_source_leaves_passes(tmp_path: Path, pattern: str) -> None:
    """Such a layer keeps no source and so has no `kept`."""
    reduction = Reduction(r=100, pattern=pattern)
    result = checked(file_of(tmp_path, reduction=reduction), tiny.reduced("cls", reduction))
    assert result.passed
    assert result.outputs.max_abs < 2e-5


@pytest.mark.parametrize(
    "nothing_to_decide",
    [
        Reduction(r=100, pattern="PPP", pruned_sizes=PrunedSizes.LOST),
        Reduction(r=100, pattern="PPP", prop_attn=False),
        Reduction(r=4, pattern="PPP", prop_attn=False, select=Selection.STRIDED),
    ],
    ids=["sizes-lost", "no-sizes", "fixed-places"],
)
def test_a_file_that_decides_nothing_passes(tmp_path: Path, nothing_to_decide: Reduction) -> None:
    """All sources leave, and nothing asks where they go."""
    result = checked(file_of(tmp_path, reduction=nothing_to_decide), tiny.reduced("cls", nothing_to_decide))
    assert result.passed
    assert result.decisions.compared == 0
    assert not any("does not depend" in note for note in result.notes)  # the last block decides nothing either


def test_a_file_that_decides_nothing_is_held_to_its_outputs(tmp_path: Path) -> None:
    kept, pruned = (Reduction(r=r, pattern="PPP", prop_attn=False, select=Selection.STRIDED) for r in (3, 4))
    assert not checked(file_of(tmp_path, reduction=kept), tiny.reduced("cls", pruned)).passed


@pytest.mark.e2e
def test_images_are_reused_where_a_batch_needs_more(tmp_path: Path) -> None:
    result = checked(file_of(tmp_path), tiny.reduced("cls", SOME), pixels=tiny.pixels(2), batch=BatchRange(5, 5, 5))
    assert result.passed
    assert (result.batches, result.outputs.images) == ((5,), 5)


@pytest.mark.e2e
def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = tiny.reduced("cls", SOME)
    x = torch.from_numpy(tiny.pixels(2))
    with torch.no_grad():
        expected = model(x)
    checked(file_of(tmp_path, mutation=nan_bias), model)
    with torch.no_grad():
        assert torch.equal(model(x), expected)
    assert patch.applied_plan(model) == tiny.plan_of("cls", SOME)


# --- Mutations ---------------------------------------------------------------------------------------------------


@pytest.mark.e2e
@pytest.mark.parametrize(
    "mutation",
    [
        corrupted_weight,
        corrupted_first_weight,
        swapped_layers,
        shifted_kept,
        shifted_joining,
        shifted_destinations,
        other_order,
    ],
)
def test_wrong_arithmetic_fails(tmp_path: Path, mutation: Mutation) -> None:
    result = checked(file_of(tmp_path, mutation=mutation), tiny.reduced("cls", SOME))
    assert not result.passed
    assert not result.outputs.within(result.tolerance)
    with pytest.raises(VerificationError, match=r"model\.onnx.*logits differ by .*allowed.*cosine") as error:
        raise result.failure()
    assert error.value.exit_code == 4


@pytest.mark.e2e
@pytest.mark.parametrize("target", [Target.PORTABLE, Target.ONNXRUNTIME])
@pytest.mark.parametrize("mutation", [least_similar, farthest, not_normalised, tilted_scores(0.05)])
def test_wrong_decisions_fail_though_the_arithmetic_is_right(
    tmp_path: Path, mutation: Mutation, target: Target
) -> None:
    result = checked(file_of(tmp_path, mutation=mutation, target=target), tiny.reduced("cls", SOME))
    assert not result.passed
    assert result.decisions.wrong > 0
    assert result.images_with_flips > 0
    assert result.decisions.largest_margin > result.tolerance.near_tie
    assert result.outputs.within(result.tolerance)  # under the same decisions
    with pytest.raises(VerificationError, match=r"matching decisions are wrong.*largest margin") as error:
        raise result.failure()
    assert "logits differ" not in str(error.value)


@pytest.mark.e2e
@pytest.mark.parametrize("target", [Target.PORTABLE, Target.ONNXRUNTIME])
def test_kept_sources_out_of_order_fail(tmp_path: Path, target: Target) -> None:
    result = checked(file_of(tmp_path, mutation=unsorted, target=target), tiny.reduced("cls", SOME))
    assert not result.passed
    assert result.decisions.wrong > 0
    assert "layer 0: kept sources are not in ascending order" in result.decisions.faults
    with pytest.raises(VerificationError, match="ascending order"):
        raise result.failure()


@pytest.mark.e2e
@pytest.mark.parametrize("mutation", [nan_bias, infinite_bias])
def test_an_output_that_is_not_finite_fails(tmp_path: Path, mutation: Mutation) -> None:
    result = checked(file_of(tmp_path, mutation=mutation), tiny.reduced("cls", SOME))
    assert not result.passed
    assert result.to_dict()["max_abs"] is None
    with pytest.raises(VerificationError, match="NaN or infinity"):
        raise result.failure()


@pytest.mark.e2e
def test_a_reference_that_is_not_finite_fails(tmp_path: Path) -> None:
    model = tiny.reduced("cls", SOME)
    model.head.bias.fill_(float("nan"))
    assert not checked(file_of(tmp_path), model).passed


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("target", "layer", "kind"),
    [
        (Target.PORTABLE, 0, "kept"),
        (Target.PORTABLE, 1, "kept"),
        (Target.PORTABLE, 1, "assigned"),
        (Target.PORTABLE, 2, "assigned"),
        (Target.ONNXRUNTIME, 1, "matched"),
        (Target.ONNXRUNTIME, 2, "target"),
    ],
)
def test_a_missing_decision_fails(tmp_path: Path, target: Target, layer: int, kind: str) -> None:
    """Layer 1 keeps sources, so its `kept` cannot be missing either."""
    path = file_of(tmp_path, "avg", mutation=renamed(f"blocks.{layer}/fuse/match/{kind}"), target=target)
    try:
        result = checked(path, tiny.reduced("avg", SOME))
    except VerificationError as error:
        assert f"layer {layer}" in str(error)
    else:
        assert not result.passed
        assert result.decisions.wrong > 0


@pytest.mark.e2e
def test_a_last_reduction_that_the_output_depends_on_cannot_be_missing(tmp_path: Path) -> None:
    path = file_of(tmp_path, "avg", Reduction(r=(*AMOUNTS[:2], 0), pattern="PAM"))
    result = checked(path, tiny.reduced("avg", SOME))
    assert not result.passed
    assert not result.outputs.within(result.tolerance)


def test_an_output_too_many_fails(tmp_path: Path) -> None:
    def extra(proto: onnx.ModelProto) -> None:
        name = decision_name(0, "kept")
        proto.graph.output.append(helper.make_tensor_value_info(name, TensorProto.INT64, None))

    with pytest.raises(VerificationError, match=r"kept.*expected logits"):
        checked(file_of(tmp_path, mutation=extra), tiny.reduced("cls", SOME))


def test_another_output_fails(tmp_path: Path) -> None:
    def other(proto: onnx.ModelProto) -> None:
        renamed("logits")(proto)
        proto.graph.output[0].name = "elsewhere"

    with pytest.raises(VerificationError, match=r"elsewhere.*expected logits"):
        checked(file_of(tmp_path, mutation=other), tiny.reduced("cls", SOME))


@pytest.mark.e2e
@pytest.mark.parametrize("layer", ["blocks.0.ls1/Mul", "blocks.2.ls2/Mul"])
def test_a_dropped_layer_scale_fails(tmp_path: Path, layer: str) -> None:
    def drop(proto: onnx.ModelProto) -> None:
        scale = node(proto, layer)
        scale.CopyFrom(helper.make_node("Identity", scale.input[:1], scale.output, name=scale.name))

    path = file_of(tmp_path, "registers")
    assert checked(path, tiny.reduced("registers", SOME)).passed
    path = file_of(tmp_path, "registers", mutation=drop)
    assert not checked(path, tiny.reduced("registers", SOME)).outputs.within(TOLERANCES[Precision.FP32])


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("made", "claimed"),
    [("PAA", "PAM"), ("PMM", "PAM"), ("MMM", "AMM"), ("AMM", "PMM"), ("PPM", "PAM"), ("MMT", "MTT")],
)
def test_a_file_made_with_another_method_fails(tmp_path: Path, made: str, claimed: str) -> None:
    """On average pooling: the class token does not see what the last block merges."""
    reduction = Reduction(r=AMOUNTS, pattern=claimed)
    path = file_of(tmp_path, "avg", Reduction(r=AMOUNTS, pattern=made))
    try:
        result = checked(path, tiny.reduced("avg", reduction))
    except VerificationError as error:
        assert re.search(
            "decisions cannot be compared|the plan knows nothing of", str(error)
        )  # no targets, or too many
    else:
        assert not result.passed


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("pattern", "amounts"),
    [
        *(
            ("PAM", amounts)
            for amounts in [(2, 2, 4), (4, 2, 4), (3, 2, 2), (3, 1, 4), (3, 2, 5), (3, 0, 4), (3, 2, 0)]
        ),
        *(("PPP", amounts) for amounts in [(2, 2, 4), (3, 2, 3), (3, 2, 5)]),
        *(("TTT", amounts) for amounts in [(4, 2, 4), (3, 2, 3), (3, 2, 0)]),
    ],
)
def test_a_file_made_with_another_r_fails(tmp_path: Path, pattern: str, amounts: tuple[int, ...]) -> None:
    """Also in the last block, which average pooling sees."""
    claimed = tiny.reduced("avg", Reduction(r=amounts, pattern=pattern))
    path = file_of(tmp_path, "avg", Reduction(r=AMOUNTS, pattern=pattern))
    try:
        result = checked(path, claimed)
    except VerificationError:
        return
    assert not result.passed


@pytest.mark.e2e
def test_a_reduced_file_is_not_the_plain_model_nor_the_reverse(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="the plan knows nothing of"):
        checked(file_of(tmp_path), tiny.build("cls"))
    path = file_of(tmp_path, reduction=Reduction(r=0))
    with pytest.raises(VerificationError, match=r"layer 0 has no value blocks\.0/fuse/match/kept"):
        checked(path, tiny.reduced("cls", SOME))


@pytest.mark.e2e
def test_other_weights_fail(tmp_path: Path) -> None:
    model = tiny.reduced("cls", SOME)
    model.norm.weight.mul_(1.001)
    assert not checked(file_of(tmp_path), model).passed


# --- Near ties ---------------------------------------------------------------------------------------------------


def without_keys(model: torch.nn.Module) -> torch.nn.Module:
    """Zero the keys of block 0: all similarities there are 0, though the tokens differ."""
    model.blocks[0].attn.qkv.weight[24:48] = 0
    model.blocks[0].attn.qkv.bias[24:48] = 0
    return model


def without_keys_and(mutation: Mutation | None) -> Mutation:
    def zero(value: Array) -> Array:
        value[..., 24:48] = 0
        return value

    def mutate(proto: onnx.ModelProto) -> None:
        change(proto, "blocks.0.attn.qkv/MatMul", 1, zero)
        change(proto, "blocks.0.attn.qkv/Add", 1, zero)
        if mutation is not None:
            mutation(proto)

    return mutate


@pytest.mark.e2e
def test_exact_ties_are_settled_alike(tmp_path: Path) -> None:
    path = file_of(tmp_path, mutation=without_keys_and(None))
    result = checked(path, without_keys(tiny.reduced("cls", SOME)))
    assert result.passed
    assert result.decisions.flips == 0


def test_a_flip_between_equals_passes_and_is_reported(tmp_path: Path) -> None:
    """1e-7 on the scores turns the choice round; the outputs are compared under the file's choice."""
    path = file_of(tmp_path, mutation=without_keys_and(tilted_scores(1e-7)))
    model = without_keys(tiny.reduced("cls", SOME))
    result = checked(path, model)
    assert result.passed
    assert (result.decisions.wrong, result.decisions.near_tie_flips) == (0, 6 * 3)
    assert result.decisions.largest_margin < 1e-6
    assert result.images_with_flips == 6
    assert "18 near ties, 0 wrong" in str(result)
    # Without the replay the outputs would be far apart: the flip drops other tokens.
    session = onnx_session(path)
    x = tiny.pixels(1)
    with torch.no_grad():
        assert np.abs(session(x) - model(torch.from_numpy(x)).numpy()).max() > 1e-2


def onnx_session(path: Path) -> Callable[[Array], Array]:
    from tofu_export.system.ort import open_session

    session = open_session(path)
    return lambda x: session.run({"input": x})["logits"]


@pytest.mark.e2e
def test_a_flip_beyond_rounding_fails_with_its_margin(tmp_path: Path) -> None:
    """The file lets the fourth source pass the third, which it can only do by the gap between the two."""
    model = tiny.reduced("cls", SOME)
    x = tiny.pixels(1)
    best: list[Array] = []

    class Watch:
        def decide(self, layer: int, scores: Any, proposed: Any) -> Any:
            best.append(scores.pairs.max(2).values[0].numpy())
            return proposed

    with torch.no_grad(), patch.observe(Watch()):
        model(torch.from_numpy(x))
    ranking = (-best[0]).argsort()
    gap = float(best[0][ranking[2]] - best[0][ranking[3]])
    assert gap > 1e-3, "choose another seed"
    tilt = np.zeros(8)
    tilt[ranking[3]] = 1.5 * gap
    path = file_of(tmp_path, mutation=tilted_scores(tilt))
    result = checked(path, model, pixels=x, batch=BatchRange(1, 1, 1))
    assert not result.passed
    assert (result.decisions.flips, result.decisions.wrong, result.images_with_flips) == (1, 1, 1)
    assert result.decisions.largest_margin == pytest.approx(gap, rel=1e-4)
    assert result.outputs.max_abs < 2e-5


# --- Batches -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "sizes", "capped"),
    [
        (BatchRange(1, 8, 64), (1, 3, 8), True),
        (BatchRange(1, 8, 16), (1, 3, 8), True),
        (BatchRange(1, 4, 8), (1, 3, 4, 8), False),
        (BatchRange(1, 2, 3), (1, 2, 3), False),
        (BatchRange(1, 1, 1), (1,), False),
        (BatchRange(1, 1, 2), (1, 2), False),
        (BatchRange(4, 4, 4), (4,), False),
        (BatchRange(8, 16, 32), (8, 9), True),
        (BatchRange(32, 64, 64), (32, 33), True),
        (BatchRange(64, 64, 64), (64,), False),
    ],
)
def test_batches(batch: BatchRange, sizes: tuple[int, ...], capped: bool) -> None:
    found, notes = batches_to_verify(batch)
    assert found == sizes
    assert bool(notes) is capped
    if capped:
        assert str(batch.maximum) in notes[0]


@pytest.mark.e2e
def test_a_capped_batch_is_noted(tmp_path: Path) -> None:
    result = checked(file_of(tmp_path), tiny.reduced("cls", SOME), batch=BatchRange())
    assert result.passed
    assert result.batches == (1, 3, 8)
    assert "not 64" in result.to_dict()["notes"][0]


# --- Judging decisions -------------------------------------------------------------------------------------------

SCORES = Scores(np.array([[[0.9, 0.1], [0.5, 0.8], [0.2, 0.3], [0.79, 0.7]]], dtype=np.float32))
"""Best of each of 4 sources: 0.9 to 0, 0.8 to 1, 0.3 to 1, 0.79 to 0."""


RIGHT = decisions([2, 3], [0, 1], [0, 1])


def test_equal_decisions() -> None:
    report = judge(5, RIGHT, SCORES, RIGHT, 0.02)
    assert report == DecisionReport((5,), compared=4)
    pruned = decisions([2, 3], [0, 1], None)
    assert judge(5, pruned, SCORES, pruned, 0.02) == DecisionReport((5,), compared=2)


def test_the_order_of_the_matched_is_no_decision() -> None:
    assert judge(0, decisions([2, 3], [1, 0], [1, 0]), SCORES, RIGHT, 0.02).flips == 0


@pytest.mark.parametrize(("near_tie", "wrong"), [(0.02, 0), (0.005, 1)])
def test_another_source(near_tie: float, wrong: int) -> None:
    report = judge(0, decisions([1, 2], [0, 3], [0, 0]), SCORES, RIGHT, near_tie)
    assert (report.flips, report.wrong, report.near_tie_flips) == (1, wrong, 1 - wrong)
    assert report.largest_margin == pytest.approx(0.01, abs=1e-6)


@pytest.mark.parametrize(("near_tie", "wrong"), [(0.31, 0), (0.29, 1)])
def test_another_target(near_tie: float, wrong: int) -> None:
    report = judge(0, decisions([2, 3], [0, 1], [0, 0]), SCORES, RIGHT, near_tie)
    assert (report.flips, report.wrong) == (1, wrong)
    assert report.largest_margin == pytest.approx(0.3, abs=1e-6)


@pytest.mark.parametrize(
    ("wrong", "faults", "strays", "right"),
    [
        (0, (), 0.0, True),
        (1, (), 0.0, False),
        (2, (), 0.01, True),
        (3, (), 0.01, False),
        (1, ("layer 0: a target is not a destination",), 0.01, False),
    ],
)
def test_a_share_of_decisions_may_be_no_ties(wrong: int, faults: tuple[str, ...], strays: float, right: bool) -> None:
    """Of possible ones: what is impossible is a mistake whatever the precision."""
    assert DecisionReport((0,), compared=200, flips=9, wrong=wrong, faults=faults).right(strays) is right


def test_strays_are_of_quantised_files_alone_told_and_counted() -> None:
    assert all(bool(entry.strays) is precision.calibrated for precision, entry in TOLERANCES.items())
    outputs = OutputComparison(0.1, 1.0, 0.99, 1.0, finite=True, images=8)
    found = VerificationResult(
        "model.onnx", (8,), "noise", "logits", outputs, None, 0, 2, DecisionReport((0,), 200, 9, 7, 2, 0.4),
        TOLERANCES[Precision.FP8],
    )  # fmt: skip
    assert found.passed
    told = found.with_strays_noted()
    assert told.notes[-1].startswith("2 of 200 decisions are between tokens further apart than a tie, by up to 0.4: ")
    strict = replace(found, tolerance=replace(found.tolerance, strays=0.0))
    assert not strict.passed
    assert "2 of 200 matching decisions are wrong" in str(strict.failure())
    assert strict.with_strays_noted() == strict


@pytest.mark.parametrize(
    ("max_abs", "cosine", "excess", "right"),
    [
        (5e-5, 1.0, None, True),
        (2e-4, 1.0, None, False),
        (2e-4, 1.0, 2.2, True),
        (5e-5, 1.0, 5.1, False),
        (5e-5, 0.9, 2.2, False),
        (np.nan, 1.0, 2.2, False),
    ],
)
def test_a_block_is_held_to_what_rounding_explains_where_that_is_known(
    max_abs: float, cosine: float, excess: float | None, right: bool
) -> None:
    values = OutputComparison(max_abs, 1.0, cosine, None, finite=bool(np.isfinite(max_abs)), images=2)
    assert LayerResult(3, DecisionReport(), values, excess).right(TOLERANCES[Precision.FP32]) is right


def test_an_equal_target_of_higher_index_is_a_flip_without_margin() -> None:
    level = Scores(np.zeros((1, 2, 3), dtype=np.float32))
    low, high = decisions([1], [0], [0]), decisions([1], [0], [2])
    report = judge(0, high, level, low, 1e-9)
    assert (report.flips, report.near_tie_flips, report.wrong, report.largest_margin) == (1, 1, 0, 0.0)


@pytest.mark.parametrize(
    ("got", "message"),
    [
        (decisions([2, 3], [0, 0], [0, 0]), "partition"),
        (decisions([2, 2], [0, 1], [0, 1]), "partition"),
        (decisions([1, 3], [0, 1], [0, 1]), "partition"),
        (decisions([2, 4], [0, 1], [0, 1]), "partition"),
        (decisions([-1, 3], [0, 1], [0, 1]), "partition"),
        (decisions([2], [0, 1], [0, 1]), "partition"),
        (decisions([3, 2], [0, 1], [0, 1]), "ascending"),
        (decisions([2, 3], [0, 1], [0, 2]), "destination"),
        (decisions([2, 3], [0, 1], [-1, 0]), "destination"),
        (decisions([3], [0, 1, 2], [0, 1, 1]), ""),
        (decisions([1, 2, 3], [0], [0]), ""),
        (decisions([], [0, 1, 2, 3], [0, 1, 1, 0]), ""),
        (decisions([0, 1, 2, 3], [], []), ""),
        (decisions([2, 3], [0, 1], [0]), ""),
    ],
)
def test_impossible_decisions_are_wrong(got: Decisions, message: str) -> None:
    """The last five remove another number of tokens than asked for, or leave one without a target."""
    report = judge(7, got, SCORES, RIGHT, 2.0)
    assert report.wrong > 0
    assert report.flips == report.wrong + report.near_tie_flips
    assert len(report.faults) == 1
    assert report.faults[0].startswith("layer 7: ")
    assert message in report.faults[0]
    json.dumps(to_plain(report), allow_nan=False)


def test_decisions_are_read_from_what_a_file_states() -> None:
    kept = np.array([[0, 3], [1, 2]])
    read = Decisions.read({"kept": kept}, 2, 4)
    assert read.matched.tolist() == [[1, 2], [0, 3]]
    assert read.target is None
    assert read.fault(4, 4) is None
    matched, target = np.array([[2, 1], [0, 3]]), np.array([[0, 0], [1, 0]])
    read = Decisions.read({"matched": matched, "target": target}, 2, 2)
    assert read.kept.shape == (2, 0)
    read = Decisions.read({"kept": np.array([[1], [2]]), "assigned": np.array([[0, -1, 2], [1, 1, -1]])}, 2, 3)
    assert (read.matched.tolist(), np.array(read.target).tolist()) == ([[0, 2], [0, 1]], [[0, 2], [1, 1]])
    assert read.fault(3, 3) is None
    read = Decisions.read({"assigned": np.array([[0, -1], [1, 1]])}, 2, 2)
    assert read.fault(2, 2) is not None
    read = Decisions.read({"kept": np.array([[0, 0], [1, 2]])}, 2, 4)  # rows of unequal length
    assert read.fault(4, 4) is not None


def test_reports_add_up() -> None:
    one = DecisionReport((0,), 4, 1, 1, 0, 0.01)
    other = DecisionReport((2, 0), 6, 3, 1, 2, 0.5, ("layer 2: odd",))
    assert one + other == DecisionReport((0, 2), 10, 4, 2, 2, 0.5, ("layer 2: odd",))
    assert DecisionReport() + one == one


# --- Comparing outputs -------------------------------------------------------------------------------------------


def test_equal_outputs() -> None:
    x = np.array([[1.0, 2.0], [3.0, -4.0]], dtype=np.float32)
    result = compare_outputs(x, x)
    assert result == OutputComparison(0.0, 4.0, pytest.approx(1.0), 1.0, True, 2)
    assert all(result.within(tolerance) for tolerance in TOLERANCES.values())


def test_the_largest_difference_counts_and_is_measured_in_float64() -> None:
    got = np.array([[1.0, 2.0], [3.0, 5.0]], dtype=np.float16)
    expected = np.array([[1.0, 2.5], [6.0, 5.0]], dtype=np.float32)
    result = compare_outputs(got, expected)
    assert (result.max_abs, result.scale, result.top1_agreement) == (3.0, 6.0, 0.5)
    assert result.cosine_min == pytest.approx((18 + 25) / np.sqrt(34 * 61))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_outputs_that_are_not_finite_are_never_within(bad: float, side: int) -> None:
    pair = [np.ones((2, 3), np.float32), np.ones((2, 3), np.float32)]
    pair[side][1, 1] = bad
    result = compare_outputs(*pair)
    assert not result.finite
    assert not any(result.within(tolerance) for tolerance in TOLERANCES.values())
    fine = compare_outputs(np.ones((2, 3)), np.ones((2, 3)))
    for joined in (fine.joined(result), result.joined(fine)):
        assert not any(joined.within(tolerance) for tolerance in TOLERANCES.values())


def test_both_not_finite_alike_is_not_equal() -> None:
    x = np.full((1, 3), np.nan, dtype=np.float32)
    assert not compare_outputs(x, x).within(TOLERANCES[Precision.BF16])


@pytest.mark.parametrize("shape", [(0, 5), (2, 0)])
def test_nothing_compared_is_never_within(shape: tuple[int, int]) -> None:
    empty = np.zeros(shape, dtype=np.float32)
    assert not compare_outputs(empty, empty).within(TOLERANCES[Precision.BF16])


@pytest.mark.parametrize("shape", [(2, 4), (3, 3), (2, 3, 1), (6,)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected the same"):
        compare_outputs(np.ones(shape), np.ones((2, 3)))


def test_zero_outputs() -> None:
    zero, one = np.zeros((1, 3)), np.array([[1e-9, -1e-9, 0.0]])
    assert compare_outputs(zero, zero).cosine_min == 1.0
    assert compare_outputs(zero, one).cosine_min == 0.0
    assert compare_outputs(one, zero).cosine_min == 0.0


def test_one_class_has_no_best() -> None:
    result = compare_outputs(np.ones((2, 1)), np.ones((2, 1)))
    assert result.top1_agreement is None
    assert result.joined(result).top1_agreement is None


def test_comparisons_join() -> None:
    one = OutputComparison(0.1, 2.0, 0.9, 1.0, True, 1)
    other = OutputComparison(0.2, 1.0, 0.8, 0.5, True, 3)
    assert one.joined(other) == OutputComparison(0.2, 2.0, 0.8, 0.625, True, 4)


def test_a_tolerance_is_a_share_of_the_largest_logit_and_never_more_than_it_says() -> None:
    for precision, tolerance in TOLERANCES.items():
        assert tolerance.name == precision.value
        assert tolerance.reason
        limit = tolerance.max_error * 10
        assert OutputComparison(limit * 0.99, 10.0, 1.0, 1.0, True, 1).within(tolerance)
        assert not OutputComparison(limit * 1.01, 10.0, 1.0, 1.0, True, 1).within(tolerance)
        assert not OutputComparison(0.0, 10.0, tolerance.cosine_min - 1e-6, 1.0, True, 1).within(tolerance)
    assert list(TOLERANCES) == list(Precision)


@pytest.mark.parametrize("precision", Precision)
def test_outputs_below_the_absolute_error_may_not_be_of_another_length(precision: Precision) -> None:
    tolerance = TOLERANCES[precision]
    expected = np.random.default_rng(0).normal(size=(4, 10)) * 1e-6
    for factor in (1 + 1.1 * tolerance.longer, 1 - 1.1 * tolerance.longer):
        found = compare_outputs(expected * factor, expected)
        assert found.max_abs < tolerance.allowed(found.scale)
        assert found.cosine_min > tolerance.cosine_min
        assert not found.within(tolerance)
        assert compare_outputs(expected, expected).joined(found).longer == found.longer
    assert compare_outputs(expected * (1 + 0.9 * tolerance.longer), expected).within(tolerance)
    assert compare_outputs(np.zeros((2, 3)), np.zeros((2, 3))).longer == 0
    assert compare_outputs(np.full((2, 3), 1e-9), np.zeros((2, 3))).longer == np.inf
