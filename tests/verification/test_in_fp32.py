"""Files compared once more with their rounding taken away: what wide tolerances let pass is seen there.

Each corruption below is one of `benchmarks/corruptions.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tests import exported, tiny
from tests.verification.edits import change, node
from tofu_export.artifact.card import ModelCard
from tofu_export.artifact.widened import HALVES, widened
from tofu_export.compare.outputs import TOLERANCES
from tofu_export.graph_patterns.lowering import lower
from tofu_export.options import Precision, Reduction, Target
from tofu_export.trace.export import save, trace
from tofu_export.trace.quantize import RANGES, quantize
from tofu_export.verification.eager import verify
from tofu_export.verification.file import verify_file
from tofu_export.verification.noise import MOST_EXCESS
from tofu_export.verification.request import ToleranceChoice, VerifyRequest
from tofu_export.verification.result import VerificationResult

SOME = Reduction(r=(3, 2, 4), pattern="MPA")
ALL = tuple(precision for precision in Precision if precision is not Precision.BF16)
QUANTIZED = tuple(precision for precision in ALL if precision.calibrated)

Array = NDArray[Any]
Edit = Callable[[onnx.ModelProto], None]


@cache
def written(precision: Precision, folder: Path) -> bytes:
    path = folder / f"{precision.value}.onnx"
    traced = trace(tiny.reduced("cls", SOME), tiny.SHAPE, precision=precision.traced, opset=precision.least_opset)
    graph = lower(traced, Target.PORTABLE, precision.traced)
    if precision.calibrated:
        images = tiny.pixels(16, seed=1)
        save(graph, folder / "draft.onnx", {})
        quantize(folder / "draft.onnx", path, images, {}, precision=precision, origin="noise", real=False)
    else:
        save(graph, path, {})
    return path.read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


def verified(folder: Path, path: Path, precision: Precision, edit: Edit | None = None) -> VerificationResult:
    proto = onnx.ModelProto.FromString(written(precision, folder))
    if edit is not None:
        before = proto.SerializeToString()
        edit(proto)
        assert proto.SerializeToString() != before
    path = path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    model = tiny.reduced("cls", SOME)
    return verify(path, model, tiny.pixels(4), precision=precision, batch=(3,), source="noise")


@pytest.mark.parametrize("precision", ALL)
def test_rounding_explains_all_of_a_right_file(precision: Precision, folder: Path, tmp_path: Path) -> None:
    result = verified(folder, tmp_path, precision)
    assert result.passed, result.failure()
    assert result.wrong_constant is None
    assert result.in_fp32 is not None
    assert result.in_fp32.decisions.flips == 0
    found = [result.in_fp32.excess, *(entry.excess for entry in result.in_fp32.layers)]
    assert len(found) == 1 + tiny.DEPTH
    assert all(value is not None and 0 < value < 0.4 * MOST_EXCESS for value in found)


def tanh_gelu(proto: onnx.ModelProto) -> None:
    activated = node(proto, "blocks.1.mlp.act/Gelu/activated")
    source = node(proto, "blocks.1.mlp.act/Gelu/scaled").input[0]
    kind = next(entry.data_type for entry in proto.graph.initializer if entry.name.endswith("Gelu/k"))
    ready = helper.make_node("Gelu", [source], list(activated.output), name=activated.name, approximate="tanh")
    proto.opset_import[0].version = max(proto.opset_import[0].version, 20)
    assert kind in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    activated.CopyFrom(ready)


def average(proto: onnx.ModelProto) -> None:
    mlerp = node(proto, "blocks.0/fuse/merge/mlerp")
    mlerp.CopyFrom(helper.make_node("Identity", mlerp.input[:1], mlerp.output, name=mlerp.name))


def smaller_scores(proto: onnx.ModelProto) -> None:
    change(proto, "blocks.1.attn/BiasedAttention/queries", 1, lambda value: (value * 0.99).astype(value.dtype))


def without_bias(proto: onnx.ModelProto) -> None:
    change(proto, "head/Gemm", 2, np.zeros_like)


@pytest.mark.e2e
@pytest.mark.parametrize("precision", [each for each in ALL if each is not Precision.INT8_FP16])  # read as FP8 is
@pytest.mark.parametrize("edit", [tanh_gelu, average, smaller_scores, without_bias])
def test_a_subtle_mistake_is_found_in_every_precision(
    edit: Edit, precision: Precision, folder: Path, tmp_path: Path
) -> None:
    result = verified(folder, tmp_path, precision, edit)
    assert not result.passed
    assert result.wrong_constant is None
    assert result.in_fp32 is not None
    excess = [value for value in (result.in_fp32.excess, *(entry.excess for entry in result.in_fp32.layers)) if value]
    assert max(excess) > MOST_EXCESS


@pytest.mark.e2e
def test_the_message_says_where_and_how_far(folder: Path, tmp_path: Path) -> None:
    result = verified(folder, tmp_path, Precision.FP16, tanh_gelu)
    assert result.outputs.within(TOLERANCES[Precision.FP16])
    text = str(result.failure())
    assert "computed in FP32, where rounding hides nothing" in text
    assert "block 1 is the first to differ" in text


def edited(name: str, change: Callable[[Array], Array]) -> Edit:
    def edit(proto: onnx.ModelProto) -> None:
        (tensor,) = (entry for entry in proto.graph.initializer if entry.name == name)
        array = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(change(array), array.dtype), name))

    return edit


def rows_moved(proto: onnx.ModelProto) -> None:
    name = node(proto, "blocks.1.mlp.fc1/MatMul_weight_DequantizeLinear").input[0]
    edited(name, lambda value: np.roll(value, 1, axis=0))(proto)


def other_numbers(proto: onnx.ModelProto) -> None:
    """The same weights in E5M2: more range, and one bit less."""
    name = node(proto, "blocks.2.attn.qkv/MatMul_weight_DequantizeLinear").input[0]
    (tensor,) = (entry for entry in proto.graph.initializer if entry.name == name)
    values = numpy_helper.to_array(tensor).astype(np.float32)
    kind = onnx.TensorProto.FLOAT8E5M2
    short = values.astype(helper.tensor_dtype_to_np_dtype(kind))
    tensor.CopyFrom(helper.make_tensor(name, kind, values.shape, short.tobytes(), raw=True))
    zeros = node(proto, "blocks.2.attn.qkv/MatMul_weight_DequantizeLinear").input
    del zeros[2:]


def along_rows(proto: onnx.ModelProto) -> None:
    wide = node(proto, "blocks.1.attn.proj/MatMul_weight_DequantizeLinear")
    wide.attribute[0].i = 0


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (edited("blocks.1.mlp.fc1/MatMul_weight_scale", lambda value: value[::-1]), "to half a step"),
        (rows_moved, "to half a step"),
        (along_rows, "not dequantised by column"),
        (edited("blocks.0.mlp.fc2/MatMul_input_scale", lambda value: value * 1.2), "on the images"),
        (edited("blocks.1.norm2/LayerNormalization_smoothed_2", lambda value: value * 1.1), "over the factors"),
    ],
    ids=["reversed scales", "rows moved", "wrong axis", "range of an activation", "smoothing"],
)
@pytest.mark.parametrize("precision", QUANTIZED)
def test_wrong_constants_are_named(
    precision: Precision, edit: Edit, problem: str, folder: Path, tmp_path: Path
) -> None:
    result = verified(folder, tmp_path, precision, edit)
    assert not result.passed
    assert problem in str(result.wrong_constant)
    assert problem in str(result.failure())


@pytest.mark.e2e
def test_e5m2_in_the_place_of_e4m3_is_named(folder: Path, tmp_path: Path) -> None:
    result = verified(folder, tmp_path, Precision.FP8, other_numbers)
    assert not result.passed
    assert "blocks.2.attn.qkv/MatMul: its weight is not a constant of FLOAT8E4M3FN" in str(result.failure())


def test_the_ranges_travel_in_the_file(folder: Path) -> None:
    proto = onnx.ModelProto.FromString(written(Precision.INT8, folder))
    assert "blocks.0.mlp.fc2/MatMul" in ModelCard.of_model(proto, "model.onnx").entries[RANGES]


def test_a_single_number_becomes_what_it_was_rounded_from(tmp_path: Path) -> None:
    source = exported.folder() / "model.fp16.onnx"
    before = {entry.name: numpy_helper.to_array(entry) for entry in onnx.load(source).graph.initializer}
    copy = widened(source, tmp_path, HALVES, (2**0.5,))
    after = {entry.name: numpy_helper.to_array(entry) for entry in onnx.load(copy).graph.initializer}
    meant = [name for name, value in before.items() if value.size == 1 and value == np.float16(2**0.5)]
    assert meant
    for name, value in before.items():
        if name in meant:
            assert after[name] == np.float32(2**0.5)
        else:
            np.testing.assert_array_equal(after[name], value)


@pytest.mark.e2e
def test_weights_are_as_they_were_afterwards(folder: Path, tmp_path: Path) -> None:
    for precision in ALL:
        path = tmp_path / "model.onnx"
        path.write_bytes(written(precision, folder))
        model = tiny.reduced("cls", SOME)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        verify(path, model, tiny.pixels(2), precision=precision, batch=(2,), source="noise")
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.e2e
def test_another_tolerance_leaves_it_out() -> None:
    path = exported.folder() / "model.fp16.onnx"
    result = verify_file(VerifyRequest(path, batches=(2,), tolerance=ToleranceChoice(rtol=0.1)))
    assert result.in_fp32 is None
