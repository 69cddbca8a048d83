"""Two files of any inputs: token rows, several inputs, whole numbers, open sizes, batches that fail."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tofu_export.compare.outputs import TOLERANCES
from tofu_export.errors import VerificationError
from tofu_export.options import Precision
from tofu_export.verification.any_pair import verify_any_pair

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
TOLERANCE = TOLERANCES[Precision.FP32]


def saved(path: Path, nodes: list[onnx.NodeProto], inputs: dict[str, tuple[int, list[Any]]], **constants: Any) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def rows(path: Path, factor: float, *, shape: list[Any] | None = None) -> Path:
    """Rows of a table, times tokens, times a number."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("Mul", ["x", "rows"], ["product"]),
        helper.make_node("Mul", ["product", "factor"], ["y"]),
    ]
    table = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    inputs = {"x": (FLOAT, shape or ["b", 7, 4]), "ids": (INT64, ["b", 7])}
    return saved(path, nodes, inputs, table=table, factor=np.float32(factor))


def test_several_inputs_and_places_from_the_end(tmp_path: Path) -> None:
    reference = rows(tmp_path / "a.onnx", 2.0)
    result = verify_any_pair(rows(tmp_path / "b.onnx", 2.0), reference, tolerance=TOLERANCE)
    assert result.passed
    assert result.batches == (1, 3)
    assert not verify_any_pair(rows(tmp_path / "c.onnx", 2.01), reference, tolerance=TOLERANCE).passed


def test_sizes_that_are_open_are_guessed_or_said(tmp_path: Path) -> None:
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["y"])]
    path = saved(tmp_path / "a.onnx", nodes, {"x": (FLOAT, ["b", "c", "h", "w"])})
    assert verify_any_pair(path, path, tolerance=TOLERANCE).passed
    assert verify_any_pair(path, path, tolerance=TOLERANCE, shapes={"x": (1, 2, 5, 6)}).passed


def test_a_batch_that_the_reference_does_not_take_is_noted(tmp_path: Path) -> None:
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    path = saved(tmp_path / "a.onnx", nodes, {"x": (FLOAT, ["b", 3, 4])}, shape=[1, 12])
    result = verify_any_pair(path, path, tolerance=TOLERANCE)
    assert (result.passed, result.batches) == (True, (1,))
    assert "does not run at batch 3" in result.notes[0]
    with pytest.raises(VerificationError, match=r"nothing was compared.*--shape"):
        verify_any_pair(path, path, tolerance=TOLERANCE, batches=(2,))


def test_equal_infinities_are_equal_and_others_are_not(tmp_path: Path) -> None:
    def masked(name: str, fill: float) -> Path:
        nodes = [helper.make_node("Where", ["m", "fill", "x"], ["y"])]
        inputs: dict[str, tuple[int, list[Any]]] = {"x": (FLOAT, ["b", 4]), "m": (TensorProto.BOOL, ["b", 4])}
        return saved(tmp_path / name, nodes, inputs, fill=np.float32(fill))

    reference = masked("a.onnx", -np.inf)
    assert verify_any_pair(masked("b.onnx", -np.inf), reference, tolerance=TOLERANCE).passed
    assert not verify_any_pair(masked("c.onnx", np.inf), reference, tolerance=TOLERANCE).passed
    assert not verify_any_pair(masked("d.onnx", -1e9), reference, tolerance=TOLERANCE).passed


def test_other_integers_are_told_without_decisions(tmp_path: Path) -> None:
    """A file that states no decisions is not said to have made its integers of some."""

    def counting(name: str, operator: str) -> Path:
        x, y = (helper.make_tensor_value_info(value, INT64, ["b", 7]) for value in "xy")
        z = helper.make_tensor_value_info("z", FLOAT, ["b", 7])
        nodes = [helper.make_node(operator, ["x", "x"], ["y"]), helper.make_node("Cast", ["x"], ["z"], to=FLOAT)]
        graph = helper.make_graph(nodes, "counts", [x], [y, z])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), tmp_path / name)
        return tmp_path / name

    result = verify_any_pair(counting("a.onnx", "Add"), counting("b.onnx", "Sub"), tolerance=TOLERANCE)
    assert not result.passed
    assert re.search(r"\d+ of \d+ integers are not b\.onnx's", str(result.failure()))


def typed(path: Path, nodes: list[onnx.NodeProto], dtype: int, result: int, **constants: Any) -> Path:
    """A file of one input [b, 9] and one output, of these types."""
    saved(path, nodes, {"x": (dtype, ["b", 9])}, **constants)
    proto = onnx.load(path)
    proto.graph.output[0].type.tensor_type.elem_type = result
    onnx.save(proto, path)
    return path


@pytest.mark.parametrize("result", [TensorProto.BOOL, INT64])
def test_outputs_without_real_numbers_are_compared_one_by_one(result: int, tmp_path: Path) -> None:
    def above(name: str, bound: float) -> Path:
        nodes = [
            helper.make_node("Greater", ["x", "bound"], ["more"]),
            helper.make_node("Cast", ["more"], ["y"], to=result),
        ]
        return typed(tmp_path / name, nodes, FLOAT, result, bound=np.float32(bound))

    reference = above("a.onnx", 0.0)
    right = verify_any_pair(above("b.onnx", 0.0), reference, tolerance=TOLERANCE)
    wrong = verify_any_pair(above("c.onnx", 0.4), reference, tolerance=TOLERANCE)
    assert (right.passed, right.mismapped, wrong.passed) == (True, 0, False)
    assert re.search(r"[1-9]\d* of \d+ integers are not a.onnx's", str(wrong.failure()))
    assert wrong.evidence is not None


def test_integers_of_another_type_are_named(tmp_path: Path) -> None:
    def whole(name: str, kind: int) -> Path:
        return typed(tmp_path / name, [helper.make_node("Cast", ["x"], ["y"], to=kind)], FLOAT, kind)

    with pytest.raises(VerificationError, match=r"b.onnx: y is int64\[1, 9\], expected int32 \[1, 9\]"):
        verify_any_pair(whole("b.onnx", INT64), whole("a.onnx", TensorProto.INT32), tolerance=TOLERANCE)


def test_numbers_that_are_nan_say_nothing(tmp_path: Path) -> None:
    def file(name: str, factor: float, first: str) -> Path:
        nodes = [
            helper.make_node(first, ["x"], ["first"]),
            helper.make_node("ReduceSum", ["first"], ["sum"]),
            helper.make_node("Mul", ["sum", "factor"], ["y"]),
        ]
        return saved(tmp_path / name, nodes, {"x": (FLOAT, ["b", 9])}, factor=np.float32(factor))

    logarithm = file("a.onnx", 1, "Log")  # of random numbers, of which some are below 0
    assert verify_any_pair(logarithm, logarithm, tolerance=TOLERANCE).passed
    assert not verify_any_pair(file("b.onnx", 2, "Log"), logarithm, tolerance=TOLERANCE).passed
    nothing = file("c.onnx", np.nan, "Abs")
    with pytest.raises(VerificationError, match=r"nothing was compared of y: .* c.onnx gives NaN alone"):
        verify_any_pair(file("d.onnx", np.nan, "Log"), nothing, tolerance=TOLERANCE)


def test_infinities_and_empty_outputs_of_two_precisions(tmp_path: Path) -> None:
    half = TensorProto.FLOAT16

    def file(name: str, dtype: int, width: int) -> Path:
        kind = np.float16 if dtype == half else np.float32
        nodes = [
            helper.make_node("Where", ["first", "low", "x"], ["masked"]),
            helper.make_node("Slice", ["masked", "zero", "width", "one"], ["y"]),
        ]
        first = np.arange(9) == 0
        return typed(
            tmp_path / name, nodes, dtype, dtype, first=first, low=kind(-np.inf), zero=[0], one=[1], width=[width]
        )

    for width in (9, 0):
        pair = file("a.onnx", half, width), file("b.onnx", FLOAT, width)
        if width:
            assert verify_any_pair(*pair, tolerance=TOLERANCES[Precision.FP16]).passed
        else:
            with pytest.raises(VerificationError, match="its outputs are empty"):
                verify_any_pair(*pair, tolerance=TOLERANCES[Precision.FP16])


def test_bounds_beyond_usual_numbers_are_seen(tmp_path: Path) -> None:
    def clipped(name: str, bound: float) -> Path:
        nodes = [helper.make_node("Clip", ["x", "low", "high"], ["y"])]
        inputs = {"x": (FLOAT, ["b", 50])}
        return saved(tmp_path / name, nodes, inputs, low=np.float32(-bound), high=np.float32(bound))

    assert not verify_any_pair(clipped("b.onnx", 6), clipped("a.onnx", 100), tolerance=TOLERANCE).passed
