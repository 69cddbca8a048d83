"""What a file says about itself decides what it is compared with; what it does not say is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file

from tests import exported, tiny
from tofu_export.artifact.widened import retype
from tofu_export.compare.outputs import TOLERANCES
from tofu_export.errors import ExportError, OptionError, TofuError, VerificationError
from tofu_export.options import OutputKind, Precision
from tofu_export.system.ort import open_session
from tofu_export.verification.facts import FileFacts
from tofu_export.verification.file import verify_file
from tofu_export.verification.request import ToleranceChoice, VerifyRequest
from tofu_export.zoo.create import create_model
from tofu_export.zoo.weights import WeightsSource

RANDOM = WeightsSource.parse("random")


def plain_proto(**shapes: list[Any]) -> onnx.ModelProto:
    """A foreign file: one input, one weight, one output."""
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()}
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        "foreign",
        [values["x"]],
        [values["y"]],
        [numpy_helper.from_array(np.ones(1, np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def foreign(path: Path, proto: onnx.ModelProto | None = None) -> Path:
    proto = proto or plain_proto(x=["b", 3, 4, 4], y=["b", 3, 4, 4])
    path.write_bytes(proto.SerializeToString())
    return path


# --- Facts -------------------------------------------------------------------------------------------------------


def test_facts_of_a_file_of_ours() -> None:
    facts = FileFacts.read(exported.folder() / "model.fp16.onnx")
    assert facts.card.is_ours
    assert facts.precision is Precision.FP16
    assert (facts.fixed_batch, facts.image_shape) == (None, (3, 160, 160))
    assert facts.card.part("model", str) == exported.MODEL
    assert facts.card.part("num_classes", int) == 1000
    assert list(facts.outputs) == ["logits"]


@pytest.mark.parametrize(("kind", "expected"), [(np.float32, "fp32"), (np.float16, "fp16"), (np.int64, None)])
def test_the_precision_of_a_foreign_file_is_that_of_its_weights(tmp_path: Path, kind: Any, expected: str) -> None:
    proto = plain_proto(x=["b", 3, 4, 4], y=["b", 3, 4, 4])
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones(7, kind), "w"))
    facts = FileFacts.read(foreign(tmp_path / "a.onnx", proto))
    assert (None if facts.precision is None else facts.precision.value) == expected
    assert not facts.card.is_ours


def test_what_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name, error in (
        ("text.onnx", ExportError), ("empty.onnx", ExportError), ("nowhere.onnx", OptionError), (".", OptionError),
    ):  # fmt: skip
        with pytest.raises(error):
            FileFacts.read(tmp_path / name)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("plan", "{"),
        ("plan", []),
        ("output", 3),
        ("num_classes", "ten"),
        ("precision", "fp12"),
        ("weights", "w"),
        ("preprocessing", {"mean": "grey"}),
        ("preprocessing", 5),
    ],
)
def test_damaged_metadata_are_named(tmp_path: Path, key: str, value: Any) -> None:
    path = exported.changed(tmp_path / "a.onnx", {key: value})
    with pytest.raises(VerificationError, match=r"a\.onnx") as error:
        verify_file(VerifyRequest(path))
    assert key in str(error.value) or "fp12" in str(error.value)


# --- Files of this library ---------------------------------------------------------------------------------------


@pytest.mark.e2e
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_file_is_rebuilt_from_what_it_says(precision: str) -> None:
    steps: list[str] = []
    path = exported.folder() / f"model.{precision}.onnx"
    result = verify_file(VerifyRequest(path, batches=(1, 2), layers=True), steps.append)
    assert result.passed
    assert result.tolerance is TOLERANCES[Precision(precision)]
    assert (result.batches, result.outputs.images) == ((1, 2), 3)
    assert result.decisions.compared == 3 * 8 * 2 * 5  # the class token does not see the last reduction
    assert [entry.layer for entry in result.layers] == list(range(6))
    assert all(entry.values is not None and entry.values.within(result.tolerance) for entry in result.layers)
    assert result.first_bad_layer is None
    assert len(result.notes) == 1
    assert steps[0] == f"rebuilding the model of {path.name}"
    entry = result.to_dict()
    assert entry["layers"][0]["compared"] == 48
    assert entry["layers"][5]["max_abs"] is not None


@pytest.mark.e2e
def test_the_batches_are_those_of_the_range_that_the_file_serves(tmp_path: Path) -> None:
    assert verify_file(VerifyRequest(exported.folder() / "model.fp32.onnx")).batches == (1, 2, 3)
    result = verify_file(VerifyRequest(exported.changed(tmp_path / "a.onnx", {"batch": "1:8:64"})))
    assert result.batches == (1, 3, 8)
    assert any("not 64: capped" in note for note in result.notes)
    result = verify_file(VerifyRequest(exported.changed(tmp_path / "b.onnx", {"batch": None})))
    assert (result.batches, len(result.notes)) == ((1, 3, 8), 1)


@pytest.mark.e2e
def test_other_weights_of_the_same_model_fail() -> None:
    path = exported.folder() / "model.fp32.onnx"
    assert not verify_file(VerifyRequest(path, weights=RANDOM, seed=4, batches=(1,))).passed
    assert verify_file(VerifyRequest(path, weights=RANDOM, seed=3, batches=(1,))).passed


@pytest.mark.e2e
def test_weights_from_a_path_are_asked_for_and_held_to_their_digest(tmp_path: Path) -> None:
    model = create_model(exported.MODEL, weights=RANDOM, seed=3).model
    save_file(model.state_dict(), tmp_path / "mine.safetensors")
    kept = {"kind": "path", "path": "mine.safetensors", "sha256": "0" * 64, "seed": None}
    path = exported.changed(tmp_path / "a.onnx", {"weights": kept})
    with pytest.raises(OptionError, match=r"weights in mine\.safetensors \(sha256 0000.*--weights PATH"):
        verify_file(VerifyRequest(path))
    given = WeightsSource.parse(str(tmp_path / "mine.safetensors"))
    result = verify_file(VerifyRequest(path, weights=given, batches=(1,)))
    assert result.passed
    assert any("are not the file's: sha256" in note for note in result.notes)


@pytest.mark.e2e
def test_a_file_of_before_the_number_of_classes_was_written(tmp_path: Path) -> None:
    path = exported.changed(tmp_path / "a.onnx", {"num_classes": None})
    assert verify_file(VerifyRequest(path, batches=(1,))).passed


@pytest.mark.e2e
def test_random_weights_of_another_torch_are_noted(tmp_path: Path) -> None:
    path = exported.changed(tmp_path / "a.onnx", {"versions": {"torch": "2.0.0", "timm": "1.0.0"}})
    notes = verify_file(VerifyRequest(path, batches=(1,))).notes
    assert sum("random weights may differ" in note for note in notes) == 2


@pytest.mark.parametrize(
    ("metadata", "error", "words"),
    [
        ({"plan": None}, VerificationError, "written by tofu-export .* without metadata tofu_export.plan"),
        ({"output": None}, VerificationError, "without metadata tofu_export.output"),
        ({"weights": None}, OptionError, "does not say which weights"),
        ({"model": "hf-hub:somebody/something"}, OptionError, "outside of timm: give --model hf-hub:somebody"),
        ({"model": "vit_small_patch16_224"}, VerificationError, "does not fit vit_small_patch16_224.*12 layers"),
        ({"output": {"kind": "poem"}}, VerificationError, "output.kind of a.onnx is 'poem', expected one of logits"),
    ],
)
def test_what_the_file_lacks_is_said(
    tmp_path: Path, metadata: dict[str, Any], error: type[TofuError], words: str
) -> None:
    with pytest.raises(error, match=words):
        verify_file(VerifyRequest(exported.changed(tmp_path / "a.onnx", metadata)))


def test_a_plan_that_is_not_the_files_is_noticed(tmp_path: Path) -> None:
    plan = exported.metadata_of("plan")
    plan["layers"][2]["removed"] = 7
    with pytest.raises(VerificationError, match="does not fit test_vit: layers would be"):
        verify_file(VerifyRequest(exported.changed(tmp_path / "a.onnx", {"plan": plan})))
    plan = exported.metadata_of("plan")
    del plan["layers"]
    with pytest.raises(
        VerificationError, match=r"metadata of b\.onnx: expected a list `layers`.*use the tofu-export that"
    ):
        verify_file(VerifyRequest(exported.changed(tmp_path / "b.onnx", {"plan": plan})))


# --- Foreign files -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain_export(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A file that timm's model gives with torch.onnx.export alone, and its weights."""
    folder = tmp_path_factory.mktemp("plain")
    model = create_model(exported.MODEL, weights=RANDOM, seed=5, num_classes=7).model
    save_file(model.state_dict(), folder / "weights.safetensors")
    torch.onnx.export(
        model,
        (torch.zeros(2, 3, 160, 160),),
        folder / "plain.onnx",
        dynamo=True,
        external_data=False,
        dynamic_shapes=({0: torch.export.Dim("b")},),
        input_names=["pixel_values"],
        output_names=["scores"],
        verbose=False,
    )
    return folder / "plain.onnx", folder / "weights.safetensors"


@pytest.mark.e2e
@pytest.mark.filterwarnings("ignore")  # torch's exporter about itself
def test_a_foreign_file_of_a_plain_model(plain_export: tuple[Path, Path], tmp_path: Path) -> None:
    path, weights = plain_export
    with pytest.raises(OptionError, match=r"no metadata tofu_export\.model.*--model NAME.*--reference"):
        verify_file(VerifyRequest(path))
    with pytest.raises(OptionError, match="does not say which weights"):
        verify_file(VerifyRequest(path, model=exported.MODEL))
    source = WeightsSource.parse(str(weights))
    request = VerifyRequest(path, exported.MODEL, source, num_classes=7, batches=(1, 2), layers=True)
    result = verify_file(request)
    assert result.passed
    assert result.output == "logits"
    assert result.decisions.compared == 0
    assert [entry.layer for entry in result.layers] == list(range(6))  # torch notes the modules
    with pytest.raises(VerificationError, match=r"scores is float32\[1, 7\], expected real numbers \[1, 1000\]"):
        verify_file(VerifyRequest(path, exported.MODEL, RANDOM, batches=(1,)))
    assert not verify_file(VerifyRequest(path, exported.MODEL, RANDOM, seed=6, num_classes=7, batches=(1,))).passed


def test_a_file_that_takes_no_images(tmp_path: Path) -> None:
    """Against a model it has to; another file is compared on what it takes."""
    rows = foreign(tmp_path / "a.onnx", plain_proto(x=[1, 5], y=[1, 5]))
    with pytest.raises(OptionError, match=r"input x of a\.onnx is float32\[1, 5\], expected images"):
        verify_file(VerifyRequest(rows, exported.MODEL, RANDOM))
    assert verify_file(VerifyRequest(rows, reference=rows)).passed
    open_ = foreign(tmp_path / "b.onnx", plain_proto(x=["b", "c", 4, 4], y=["b", "c", 4, 4]))
    assert verify_file(VerifyRequest(open_, reference=open_)).passed
    assert verify_file(VerifyRequest(open_, reference=open_, shapes={"x": (1, 5, 4, 4)})).passed
    with pytest.raises(OptionError, match="leave out --images"):
        verify_file(VerifyRequest(open_, reference=open_, images=tmp_path))


def test_a_foreign_file_against_itself_and_another(tmp_path: Path) -> None:
    path = foreign(tmp_path / "a.onnx")
    assert verify_file(VerifyRequest(path, reference=path)).passed
    other = plain_proto(x=["b", 3, 4, 4], y=["b", 3, 4, 4])
    other.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full(1, 1.001, np.float32), "w"))
    request = VerifyRequest(foreign(tmp_path / "b.onnx", other), reference=path)
    assert not verify_file(request).passed
    wide = ToleranceChoice(rtol=0.01)
    assert verify_file(VerifyRequest(request.path, reference=path, tolerance=wide)).passed


def test_a_fixed_batch_is_what_runs(tmp_path: Path) -> None:
    path = foreign(tmp_path / "a.onnx", plain_proto(x=[2, 3, 4, 4], y=[2, 3, 4, 4]))
    assert verify_file(VerifyRequest(path, reference=path)).batches == (2,)


def test_images_need_a_preprocessing(tmp_path: Path) -> None:
    path = foreign(tmp_path / "a.onnx")
    with pytest.raises(OptionError, match="how images are prepared"):
        verify_file(VerifyRequest(path, reference=path, images=tmp_path))


def test_two_precisions_take_the_wider_tolerance() -> None:
    out = exported.folder()
    request = VerifyRequest(out / "model.fp32.onnx", reference=out / "model.fp16.onnx", batches=(2,))
    result = verify_file(request)
    assert result.passed
    assert result.tolerance is TOLERANCES[Precision.FP16]
    assert result.decisions.compared > 0


def in_bf16(path: Path, folder: Path) -> Path:
    """A copy of an FP32 file of ours, as its BF16 file is: onnxruntime does not load it."""
    model = onnx.load(path)
    retype(model, {TensorProto.FLOAT}, TensorProto.BFLOAT16)
    for entry in model.metadata_props:
        if entry.key == "tofu_export.precision":
            entry.value = "bf16"
    copy = folder / "model.bf16.onnx"
    onnx.save(model, copy)
    return copy


def test_bf16_files_are_compared_as_copies_in_fp32(tmp_path: Path) -> None:
    single = exported.folder() / "model.fp32.onnx"
    half = in_bf16(single, tmp_path)
    with pytest.raises(ExportError, match="no bfloat16 kernels"):
        open_session(half)
    for file, reference in ((half, single), (single, half), (half, half)):
        result = verify_file(VerifyRequest(file, reference=reference, batches=(2,)))
        assert result.passed
        assert (result.artifact, result.reference) == (file.name, reference.name)
        assert result.tolerance is TOLERANCES[Precision.BF16]
        assert result.decisions.compared > 0
        assert any("computed in FP32" in note for note in result.notes)


def test_a_bf16_file_of_other_weights_fails(tmp_path: Path) -> None:
    single = exported.folder() / "model.fp32.onnx"
    model = onnx.load(in_bf16(single, tmp_path))
    for tensor in model.graph.initializer:
        if tensor.name.endswith("head.weight"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[::-1].copy(), tensor.name))
    onnx.save(model, tmp_path / "other.onnx")
    assert not verify_file(VerifyRequest(tmp_path / "other.onnx", reference=single, batches=(2,))).passed


def test_files_of_other_reductions_fail_though_a_wide_tolerance_lets_their_outputs_pass(tmp_path: Path) -> None:
    reduced = exported.folder() / "model.fp32.onnx"
    plan = exported.metadata_of("plan")
    rows = [{**row, "removed": 0, "method": "none"} for row in plan["layers"]]
    full = exported.changed(tmp_path / "full.onnx", {"plan": {**plan, "layers": rows}})
    anything = ToleranceChoice(atol=100.0, cosine=0.0)
    result = verify_file(VerifyRequest(full, reference=reduced, batches=(1,), tolerance=anything))
    assert not result.passed
    assert "full.onnx: it states another reduction than model.fp32.onnx: no token leaves, there 8 by" in str(
        result.failure()
    )
    last = [*plan["layers"][:-1], rows[-1]]  # an output that does not see it is the same without it
    same = exported.changed(tmp_path / "same.onnx", {"plan": {**plan, "layers": last}})
    assert verify_file(VerifyRequest(same, reference=reduced, batches=(1,))).passed


@pytest.mark.parametrize(
    ("shape", "other", "words"),
    [
        ([1, 3, 4, 4], [2, 3, 4, 4], r"x of a\.onnx is float32\[1, 3, 4, 4\], x of b\.onnx is float32\[2, 3, 4, 4\]"),
        (["b", 3, 4, 4], ["b", 3, 5, 5], r"float32\[\?, 3, 5, 5\]: no input suits both"),
        (["b", 7], ["b", 8], r"float32\[\?, 8\]: no input suits both"),
        (["b", 7], ["b", 7, 1], "no input suits both"),
    ],
)
def test_inputs_that_suit_one_file_alone(tmp_path: Path, shape: list[Any], other: list[Any], words: str) -> None:
    one, two = (
        foreign(tmp_path / name, plain_proto(x=sizes, y=sizes))
        for name, sizes in (("a.onnx", shape), ("b.onnx", other))
    )
    with pytest.raises(OptionError, match=words):
        verify_file(VerifyRequest(one, reference=two))


def test_sizes_that_nothing_reads_are_refused(tmp_path: Path) -> None:
    path = foreign(tmp_path / "a.onnx")
    with pytest.raises(OptionError, match="leave out --shape"):
        verify_file(VerifyRequest(path, reference=path, shapes={"x": (1, 3, 4, 4)}))
    with pytest.raises(OptionError, match="leave out --shape"):
        verify_file(VerifyRequest(exported.folder() / "model.fp32.onnx", shapes={"x": (1, 3, 4, 4)}))
    rows = foreign(tmp_path / "b.onnx", plain_proto(x=["b", 5], y=["b", 5]))
    with pytest.raises(OptionError, match="--shape names 'z', which no file has; inputs are x"):
        verify_file(VerifyRequest(rows, reference=rows, shapes={"z": (1, 5)}))


def test_a_reference_without_weights_is_taken_for_what_the_file_is(tmp_path: Path) -> None:
    proto = plain_proto(x=["b", 5], y=["b", 5])
    proto.graph.node[0].input[1] = "x"
    del proto.graph.initializer[:]
    path = foreign(tmp_path / "a.onnx", proto)
    with pytest.raises(OptionError, match="--precision"):
        verify_file(VerifyRequest(path, reference=path))
    assert verify_file(VerifyRequest(path, reference=path, precision=Precision.FP32)).passed


# --- Tolerances and options --------------------------------------------------------------------------------------


def test_parts_of_a_tolerance() -> None:
    fp32 = TOLERANCES[Precision.FP32]
    assert ToleranceChoice().of(Precision.FP32) is fp32
    assert ToleranceChoice("fp16").of(Precision.FP32) is TOLERANCES[Precision.FP16]
    absolute = ToleranceChoice(atol=0.5).of(Precision.FP32)
    assert (absolute.allowed(1), absolute.allowed(100), absolute.cosine_min) == (0.5, 0.5, fp32.cosine_min)
    both = ToleranceChoice(atol=0.5, rtol=0.1, cosine=0.9).of(Precision.FP32)
    assert (both.allowed(10), both.cosine_min, both.name) == (1.5, 0.9, "fp32 with atol 0.5, rtol 0.1, cosine 0.9")
    assert ToleranceChoice(atol=0).of(Precision.FP16).allowed(10) == 0


@pytest.mark.parametrize(
    "options",
    [
        {"name": "exact"},
        {"atol": -1.0},
        {"rtol": float("nan")},
        {"atol": float("inf")},
        {"cosine": 1.5},
        {"cosine": -0.1},
    ],
)
def test_what_is_no_tolerance(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        ToleranceChoice(**options)


@pytest.mark.parametrize(
    "options", [{"model": "vit_tiny"}, {"weights": RANDOM}, {"num_classes": 3}, {"output_kind": OutputKind.LOGITS}]
)
def test_a_file_or_a_model_but_not_both(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="leave out --reference"):
        VerifyRequest(Path("a.onnx"), reference=Path("b.onnx"), **options)


def test_tiny_models_are_not_touched_by_looking_at_blocks() -> None:
    from tofu_export.verification.block_ends import collect_blocks

    model = tiny.build("cls")
    with collect_blocks(model) as found, torch.no_grad():
        model(torch.from_numpy(tiny.pixels(2)))
    assert sorted(found) == [0, 1, 2]
    assert found[0].shape == (2, 17, 24)
    assert not any(block._forward_hooks for block in model.blocks)


# --- How images are prepared -------------------------------------------------------------------------------------


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("name", "value"), [("mean", (0.1, 0.2, 0.3)), ("interpolation", "nearest"), ("crop_pct", 0.5)]
)
def test_other_preprocessing_than_the_models_is_refused(tmp_path: Path, name: str, value: Any) -> None:
    edited = {"preprocessing": {**exported.metadata_of("preprocessing"), name: value}}
    path = exported.changed(tmp_path / "a.onnx", edited)
    result = verify_file(VerifyRequest(path, batches=(1,)))
    assert not result.passed
    (said,) = result.contradictions
    assert said in result.to_dict()["notes"]
    assert str(result.failure()) == f"a.onnx: {said}"
    assert said.startswith(f"it says {name} {value} in its metadata, timm's default says ")
    by_options = {"preprocessing_from": {**exported.metadata_of("preprocessing_from"), name: "options"}}
    path = exported.changed(tmp_path / "b.onnx", edited | by_options)
    assert verify_file(VerifyRequest(path, batches=(1,))).passed
