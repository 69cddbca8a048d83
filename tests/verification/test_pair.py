"""Two files against each other: decisions are followed, judged and told from arithmetic, as with the eager model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests import tiny
from tests.verification.edits import (
    SOME,
    TOME,
    Mutation,
    change,
    file_of,
    infinite_bias,
    least_similar,
    node,
    not_normalised,
    one_weight,
    renamed,
    shifted_kept,
    tilted_scores,
    unsorted,
)
from tofu_export.compare.outputs import TOLERANCES
from tofu_export.errors import VerificationError
from tofu_export.options import Precision, Reduction, Target
from tofu_export.verification.pair import verify_pair
from tofu_export.verification.result import VerificationResult

FP32, FP16 = TOLERANCES[Precision.FP32], TOLERANCES[Precision.FP16]


def made(folder: Path, name: str, mutation: Mutation | None = None, model: str = "cls", **kwargs: object) -> Path:
    """A file in a folder of its own."""
    (folder / name).mkdir()
    return file_of(folder / name, model, mutation=mutation, **kwargs)  # type: ignore[arg-type]


def compared(path: Path, reference: Path, **kwargs: object) -> VerificationResult:
    options = {"tolerance": FP32, "batches": (1, 3), "source": "noise", **kwargs}
    return verify_pair(path, reference, tiny.pixels(4), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("reduction", [SOME, TOME], ids=["hybrid", "tome"])
def test_the_forms_of_two_targets_are_the_same_model(tmp_path: Path, reduction: Reduction) -> None:
    """One states where each source goes, the other lists those that leave: either can follow the other."""
    portable = made(tmp_path, "one", model="avg", reduction=reduction)
    other = made(tmp_path, "two", model="avg", reduction=reduction, target=Target.ONNXRUNTIME)
    for file, reference in ((portable, other), (other, portable)):
        result = compared(file, reference, layers=True)
        assert result.passed
        assert result.decisions.layers == (0, 1, 2)
        assert result.decisions.compared == 4 * 2 * (3 + 2 + 4)
        assert result.decisions.flips == 0
        assert result.outputs.images == 4
        assert [entry.layer for entry in result.layers] == [0, 1, 2]
        assert all(entry.values is not None and entry.values.max_abs < 2e-5 for entry in result.layers)
        assert (result.reference, result.notes) == ("model.onnx", ())


def test_half_against_single_precision(tmp_path: Path) -> None:
    single, half = made(tmp_path, "one"), made(tmp_path, "two", precision=Precision.FP16)
    result = compared(half, single, tolerance=FP16)
    assert result.passed
    assert result.outputs.max_abs > 1e-5
    assert not compared(half, single).passed


@pytest.mark.parametrize("mutation", [least_similar, not_normalised, tilted_scores(0.05)])
def test_wrong_decisions_fail_though_the_arithmetic_is_right(tmp_path: Path, mutation: Mutation) -> None:
    result = compared(made(tmp_path, "one", mutation), made(tmp_path, "two"))
    assert not result.passed
    assert result.decisions.wrong > 0
    assert result.images_with_flips > 0
    assert result.outputs.within(FP32)  # the reference follows


def test_wrong_arithmetic_fails_with_right_decisions(tmp_path: Path) -> None:
    def mutation(proto: onnx.ModelProto) -> None:
        change(proto, "blocks.1.mlp.fc1/MatMul", 1, one_weight)

    result = compared(made(tmp_path, "one", mutation), made(tmp_path, "two"), layers=True)
    assert not result.passed
    assert result.decisions.wrong == 0
    assert result.first_bad_layer == 1
    values = [entry.values for entry in result.layers]
    assert all(value is not None for value in values)
    assert values[0] is not None
    assert values[0].within(FP32)
    assert "the first block that differs is 1" in str(result.failure())


def test_impossible_decisions_fail_and_are_not_followed(tmp_path: Path) -> None:
    result = compared(made(tmp_path, "one", unsorted), made(tmp_path, "two"))
    assert not result.passed
    assert "layer 0: kept sources are not in ascending order" in result.decisions.faults


@pytest.mark.parametrize("mutation", [shifted_kept, infinite_bias])
def test_other_mutations_fail(tmp_path: Path, mutation: Mutation) -> None:
    assert not compared(made(tmp_path, "one", mutation), made(tmp_path, "two")).passed


def test_a_plain_file_has_no_decisions_to_compare(tmp_path: Path) -> None:
    plain = made(tmp_path, "one", reduction=Reduction(r=0))
    assert compared(plain, plain).passed
    result = compared(plain, made(tmp_path, "two"))
    assert not result.passed
    assert result.decisions.compared == 0
    assert "do not decide alike in blocks 0, 1: " in result.notes[0]


def test_outputs_of_other_names_are_taken_in_their_order(tmp_path: Path) -> None:
    def other(proto: onnx.ModelProto) -> None:
        renamed("logits")(proto)
        proto.graph.output[0].name = "elsewhere"

    result = compared(made(tmp_path, "one", other), made(tmp_path, "two"))
    assert result.passed
    assert result.output == "elsewhere"


def test_an_output_without_a_counterpart_fails(tmp_path: Path) -> None:
    def extra(proto: onnx.ModelProto) -> None:
        proto.graph.output.append(helper.make_tensor_value_info("blocks.0/fuse/match/kept", TensorProto.INT64, None))

    with pytest.raises(VerificationError, match=r"gives logits, blocks\.0.* and model\.onnx gives logits"):
        compared(made(tmp_path, "one", extra), made(tmp_path, "two"))


def test_the_worst_of_several_outputs_counts(tmp_path: Path) -> None:
    """A small output that is wrong fails beside a large one that is right."""

    def with_small(factor: float) -> Mutation:
        def mutate(proto: onnx.ModelProto) -> None:
            proto.graph.initializer.append(numpy_helper.from_array(np.float32(factor), "factor"))
            proto.graph.node.append(helper.make_node("Mul", ["logits", "factor"], ["small"], name="small"))
            proto.graph.output.append(helper.make_tensor_value_info("small", TensorProto.FLOAT, None))
            assert node(proto, "small")

        return mutate

    right, wrong = made(tmp_path, "one", with_small(1e-2)), made(tmp_path, "two", with_small(1.1e-2))
    assert compared(right, right).passed
    result = compared(wrong, right)
    assert not result.passed
    assert result.outputs.max_abs < 0.1
    assert result.outputs.images == 4


def test_a_reference_without_similarities_cannot_follow(tmp_path: Path) -> None:
    stripped = made(tmp_path, "two", renamed("blocks.0/fuse/match/scaled"))
    with pytest.raises(VerificationError, match=r"does not say what layer 0 decides by.*cannot be followed"):
        compared(made(tmp_path, "one"), stripped)


def test_evidence_is_of_the_worst_batch(tmp_path: Path) -> None:
    def mutation(proto: onnx.ModelProto) -> None:
        change(proto, "head/Gemm", 2, lambda value: value + 1)

    evidence = compared(made(tmp_path, "one", mutation), made(tmp_path, "two")).evidence
    assert evidence is not None
    assert list(evidence.feeds) == ["input"]
    np.testing.assert_allclose(evidence.got["logits"], evidence.expected["logits"] + 1, atol=1e-5)


def test_equal_infinities_of_masks_are_equal_and_nan_is_not(tmp_path: Path) -> None:
    def scores(name: str, fill: float, factor: float = 1.0) -> Path:
        nodes = [
            helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
            helper.make_node("Mul", ["mean", "factor"], ["scaled"]),
            helper.make_node("Where", ["first", "fill", "scaled"], ["y"]),
        ]
        constants = {"factor": np.float32(factor), "fill": np.float32(fill), "first": np.array([1, 0, 0], bool)}
        constants["first"] = constants["first"].reshape(1, 3, 1, 1)
        values = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", *tiny.pixels(1).shape[1:]]),
                  helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]  # fmt: skip
        weights = [numpy_helper.from_array(value, key) for key, value in constants.items()]
        graph = helper.make_graph(nodes, "g", values[:1], values[1:], weights)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.save(proto, tmp_path / name)
        return tmp_path / name

    reference = scores("a.onnx", -np.inf)
    assert compared(scores("b.onnx", -np.inf), reference).passed
    assert not compared(scores("c.onnx", np.inf), reference).passed
    assert not compared(scores("d.onnx", -np.inf, factor=1.5), reference).passed
    nothing = scores("e.onnx", np.nan)
    assert not compared(nothing, nothing).passed
