"""The int8 file: written whole and the same each time, run in int8 by runtimes, verified, and as accurate."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tests import tiny
from tests.cli.running import run
from tests.digits import few_digits
from tests.engines.rtx import needs_rtx, rtx
from tofu_export.artifact import onnx_file
from tofu_export.artifact.card import ModelCard
from tofu_export.benchmarking.benchmark import Rules, run_benchmark
from tofu_export.engines.building.build import EngineRequest, build_engine
from tofu_export.engines.flavours import RTX, load
from tofu_export.errors import ExitCode, ExportError, OptionError, PrecisionMismatchError, VerificationError
from tofu_export.options import BatchRange, Precision, Quantization, Reduction, Target
from tofu_export.system import ort
from tofu_export.system.files import sha256_of
from tofu_export.system.ort import OPTIMIZED_NAME, open_session
from tofu_export.trace import quantize as module
from tofu_export.trace.quantize import Calibration, quantize
from tofu_export.verification.eager import verify
from tofu_export.verification.result import VerificationResult

SOME = Reduction(r=(3, 2, 4), pattern="PAM")
BATCH = BatchRange(1, 2, 3)
PRODUCTS = 12
OPTIONS: dict[str, Any] = {"precision": Precision.INT8, "origin": "noise", "real": False}

Array = NDArray[Any]


def make(folder: Path, pixels: Array | None = None, target: Target = Target.PORTABLE, **kwargs: Any) -> Calibration:
    """Write `source.onnx` and `int8.onnx`, and hold that nothing else is left."""
    source = folder / "source.onnx"
    onnx_file.save(tiny.lowered("cls", SOME, target, **kwargs), source, {})
    before = {path.name for path in folder.iterdir()}
    pixels = tiny.pixels(40) if pixels is None else pixels
    found = quantize(source, folder / "int8.onnx", pixels, {"precision": "int8"}, **OPTIONS)
    made = {path.name for path in folder.iterdir()} - before
    assert made == {"int8.onnx", *([] if len(before) == 1 else ["int8.onnx.data"])}
    return found


def checked(path: Path, **kwargs: Any) -> VerificationResult:
    options: dict[str, Any] = {"precision": Precision.INT8, "batch": BATCH, "source": "noise", **kwargs}
    return verify(path, tiny.reduced("cls", SOME), tiny.pixels(8, seed=1), **options)


@pytest.mark.e2e
@pytest.mark.parametrize("target", [Target.PORTABLE, Target.ONNXRUNTIME])
@pytest.mark.parametrize("opset", [18, 23])
def test_the_file_passes_and_onnxruntime_multiplies_in_int8(target: Target, opset: int, tmp_path: Path) -> None:
    if opset == 23 and ort.version().startswith("1.23."):
        pytest.skip("onnxruntime 1.23 has no QuantizeLinear of opset 23")
    found = make(tmp_path, target=target, opset=opset)
    assert found.products == PRODUCTS
    assert found.ops["QuantizeLinear"] == PRODUCTS
    assert found.ops["DequantizeLinear"] == 2 * PRODUCTS
    result = checked(tmp_path / "int8.onnx")
    assert result.passed
    assert result.outputs.max_abs > 1e-4  # it is another arithmetic
    assert result.decisions.compared > 0
    open_session(tmp_path / "int8.onnx", profile_into=tmp_path)
    running = Counter(
        node.op_type for node in onnx.load(tmp_path / OPTIMIZED_NAME, load_external_data=False).graph.node
    )
    assert running["MatMulIntegerToFloat"] == PRODUCTS
    assert running["DequantizeLinear"] == 0


def test_equal_runs_write_equal_bytes_a_third_of_the_size(tmp_path: Path) -> None:
    hashes = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        make(tmp_path / name)
        hashes.add(sha256_of(tmp_path / name / "int8.onnx"))
    assert len(hashes) == 1
    model = onnx.load(tmp_path / "one" / "int8.onnx")
    metadata = ModelCard.of_model(model, "int8.onnx").entries
    assert set(metadata) == {"precision", module.RANGES}
    assert metadata["precision"] == "int8"
    assert model.producer_name == "tofu-export"


def test_weights_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inside").mkdir()
    make(tmp_path / "inside")
    monkeypatch.setattr(onnx_file, "EXTERNAL_DATA_BYTES", 1000)
    (tmp_path / "beside").mkdir()
    make(tmp_path / "beside")
    (tmp_path / "beside" / "source.onnx").unlink()
    (tmp_path / "beside" / "source.onnx.data").unlink()
    first, second = (
        open_session(tmp_path / name / "int8.onnx").run({"input": tiny.pixels(3)})["logits"]
        for name in ("inside", "beside")
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.e2e
def test_large_weights_that_stay_are_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are read when their turn comes; what is written must not refer to where they came from."""
    monkeypatch.setattr("tofu_export.artifact.onnx_file.LARGE_BYTES", 1000)
    make(tmp_path)
    (tmp_path / "source.onnx").unlink()
    alone = tmp_path / "alone"
    alone.mkdir()
    (tmp_path / "int8.onnx").rename(alone / "int8.onnx")
    assert checked(alone / "int8.onnx").passed


@pytest.mark.e2e
def test_a_fixed_batch_that_the_images_do_not_fill(tmp_path: Path) -> None:
    found = make(tmp_path, tiny.pixels(6), batch=BatchRange(4, 4, 4))
    assert found.images == 6
    assert checked(tmp_path / "int8.onnx", batch=BatchRange(4, 4, 4)).passed


def test_blocks_and_modules_that_are_left_out(tmp_path: Path) -> None:
    """They stay as they were, the others are quantised, and verification compares all."""
    source, path = tmp_path / "source.onnx", tmp_path / "int8.onnx"
    onnx_file.save(tiny.lowered("cls", SOME), source, {})
    found = quantize(source, path, tiny.pixels(8), {}, **OPTIONS, wanted=Quantization(skip=("1", "mlp.fc2")))
    assert (found.products, found.skip) == (PRODUCTS - 6, ("1", "mlp.fc2"))
    assert found.entry().skip == ("1", "mlp.fc2")
    model = onnx.load(path)
    weights = {node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    assert not any(name.startswith("blocks.1.") or ".fc2/" in name for name in weights)
    assert any(name.startswith("blocks.2.mlp.fc1/") for name in weights)
    assert checked(path).passed


@pytest.mark.parametrize(
    ("skip", "error", "words"),
    [
        (
            ("3",),
            OptionError,
            r"names '3', which is no block and no module.*there are attn\.proj, attn\.qkv",
        ),
        (("0", "head"), OptionError, "names 'head'"),
        (("attn", "mlp"), ExportError, "no product with weights in a block that is not skipped: leave int8 out"),
    ],
)
def test_what_cannot_be_left_out(skip: tuple[str, ...], error: type[Exception], words: str, tmp_path: Path) -> None:
    source = tmp_path / "source.onnx"
    onnx_file.save(tiny.lowered("cls", SOME), source, {})
    with pytest.raises(error, match=words):
        quantize(source, tmp_path / "int8.onnx", tiny.pixels(1), {}, **OPTIONS, wanted=Quantization(skip=skip))


def fp8_attention(folder: Path, skip: tuple[str, ...] = ()) -> tuple[Calibration, Path]:
    source, path = folder / "source.onnx", folder / "fp8.onnx"
    onnx_file.save(tiny.lowered("cls", SOME, precision=Precision.FP16, opset=19), source, {})
    wanted = Quantization(attention=True, skip=skip)
    options = {**OPTIONS, "precision": Precision.FP8}
    return quantize(source, path, tiny.pixels(8), {"precision": "fp8"}, **options, wanted=wanted), path


def test_attention_in_fp8(tmp_path: Path) -> None:
    found, path = fp8_attention(tmp_path)
    assert (found.products, found.attentions, found.left) == (
        PRODUCTS,
        2,
        7,
    )  # the last block's class token has one query alone
    assert str(found).startswith("12 products and 2 attentions in fp8, 7 left in fp16")
    assert found.ops["QuantizeLinear"] == PRODUCTS + 4 * 2
    metadata = ModelCard.of_model(onnx.load(path), path.name).entries[module.RANGES]
    assert metadata["blocks.0.attn/Attention/attended:0"] == 1.0
    result = checked(path, precision=Precision.FP8)
    assert result.passed
    assert result.in_fp32 is not None
    plain = tmp_path / "plain"
    plain.mkdir()
    onnx_file.save(tiny.lowered("cls", SOME, precision=Precision.FP16, opset=19), plain / "source.onnx", {})
    quantize(plain / "source.onnx", plain / "fp8.onnx", tiny.pixels(8), {}, **{**OPTIONS, "precision": Precision.FP8})
    given = [open_session(each).run({"input": tiny.pixels(3)})["logits"] for each in (path, plain / "fp8.onnx")]
    assert np.abs(given[0] - given[1]).max() > 1e-3  # it is another arithmetic


def test_attention_of_a_block_that_is_left_out(tmp_path: Path) -> None:
    found, path = fp8_attention(tmp_path, skip=("0",))
    assert (found.products, found.attentions) == (PRODUCTS - 4, 1)
    assert checked(path, precision=Precision.FP8).passed


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["BiasedAttention/scores_input_1", "BiasedAttention/attended_input_0"])
def test_a_corrupted_range_of_attention_fails_verification(name: str, tmp_path: Path) -> None:
    _, path = fp8_attention(tmp_path)
    model = onnx.load(path)
    (tensor,) = (entry for entry in model.graph.initializer if entry.name == f"blocks.1.attn/{name}_scale")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) / np.float16(4), tensor.name))
    onnx.save(model, path)
    result = checked(path, precision=Precision.FP8)
    assert not result.passed
    assert "blocks.1.attn" in str(result.wrong_constant)


@pytest.mark.e2e
def test_a_product_that_lost_its_quantising_fails_verification(tmp_path: Path) -> None:
    """Its numbers are better than they should be: the file is not what its metadata say."""
    _, path = fp8_attention(tmp_path)
    model = onnx.load(path)
    (product,) = (node for node in model.graph.node if node.name == "blocks.1.attn/BiasedAttention/attended")
    for index in range(2):
        (wide,) = (node for node in model.graph.node if product.input[index] in node.output)
        (narrow,) = (node for node in model.graph.node if wide.input[0] in node.output)
        product.input[index] = narrow.input[0]
    onnx.save(model, path)
    result = checked(path, precision=Precision.FP8)
    assert not result.passed
    assert "attended:0: it is not quantised" in str(result.wrong_constant)


def test_attention_that_is_none_cannot_be_quantised(tmp_path: Path) -> None:
    source = tmp_path / "source.onnx"
    model = tiny.lowered("cls", SOME, precision=Precision.FP16, opset=19)
    for node in model.graph:
        if node.op_type == "Softmax":
            node.attributes["axis"] = ir.AttrInt64("axis", 1)
    onnx_file.save(model, source, {})
    options = {**OPTIONS, "precision": Precision.FP8, "wanted": Quantization(attention=True)}
    with pytest.raises(ExportError, match="no attention that can be quantised: leave out --quantize-attention"):
        quantize(source, tmp_path / "fp8.onnx", tiny.pixels(1), {}, **options)


def test_what_cannot_be_calibrated_is_said(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"at least one image.*--images DIR"):
        make(tmp_path, tiny.pixels(0))
    pixels = tiny.pixels(5)
    pixels[3] = np.inf
    with pytest.raises(ExportError, match="logits is not finite on the images"):
        make(tmp_path, pixels)
    source = tmp_path / "other.onnx"
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 3])
    result = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 3])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], name="head/Relu")], "g", [value], [result])
    onnx.save(helper.make_model(graph, ir_version=10), source)
    with pytest.raises(ExportError, match="no product with weights in a block"):
        quantize(source, tmp_path / "int8.onnx", tiny.pixels(1), {}, **OPTIONS)
    assert not (tmp_path / "int8.onnx").exists()


def test_a_file_that_is_not_what_was_to_be_written_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = module.save

    def save_otherwise(model: ir.Model, path: Path, metadata: Any) -> list[Path]:
        value = model.graph.initializers["blocks.1.mlp.fc1/MatMul_weight_scale"]
        assert value.const_value is not None
        value.const_value = ir.tensor(value.const_value.numpy()[::-1].copy(), name=value.name)
        return save(model, path, metadata)

    monkeypatch.setattr(module, "save", save_otherwise)
    with pytest.raises(VerificationError, match=r"int8\.onnx.*blocks\.1\.mlp\.fc1/MatMul.*half a step"):
        make(tmp_path)


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("blocks.0.attn.qkv/MatMul_input_scale", lambda scale: scale / 4),
        ("blocks.1.mlp.fc2/MatMul_input_scale", lambda scale: scale / 4),
        ("blocks.1.attn.proj/MatMul_weight_scale", lambda scale: scale * 2),
        ("blocks.2.mlp.fc1/MatMul_weight_scale", lambda scale: scale * 2),
    ],
)
def test_a_corrupted_scale_fails_verification(name: str, change: Callable[[Array], Array], tmp_path: Path) -> None:
    make(tmp_path)
    path = tmp_path / "int8.onnx"
    model = onnx.load(path)
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(change(numpy_helper.to_array(tensor)), np.float32), name))
    onnx.save(model, path)
    result = checked(path)
    assert not result.passed
    assert result.failure().exit_code is ExitCode.VERIFICATION


@pytest.mark.e2e
@rtx
@needs_rtx
def test_tensorrt_rtx_multiplies_in_int8(tmp_path: Path) -> None:
    if load(RTX).__version__.startswith("1.4."):
        pytest.skip("TensorRT-RTX 1.4 wants a GPU to build a file in int8")
    make(tmp_path)
    asked = EngineRequest(
        tmp_path / "int8.onnx", tmp_path / "int8.engine", RTX, BATCH, Precision.INT8, compute_capabilities=("SM89",)
    )
    receipt = build_engine(asked)
    assert receipt.layers["QUANTIZE"] == {"int8": PRODUCTS}
    assert receipt.layers["DEQUANTIZE"] == {"fp32": 2 * PRODUCTS}
    kernels = [record for record in receipt.kernels.records if "int8" in record.input_dtypes]
    assert sum(record.output_dtypes == ("fp32",) for record in kernels) == PRODUCTS
    assert any("slower on a GPU than FP16" in note for note in receipt.notes)
    wrong = EngineRequest(tmp_path / "int8.onnx", tmp_path / "wrong.engine", RTX, BATCH, Precision.FP32)
    with pytest.raises(
        PrecisionMismatchError, match=f"fp32 was asked for.*quantises {PRODUCTS} tensors.*int8"
    ) as caught:
        build_engine(wrong)
    assert caught.value.exit_code is ExitCode.PRECISION
    assert not wrong.engine_path.exists()


@pytest.mark.e2e
@pytest.mark.parametrize("precision", [Precision.INT8_FP16, Precision.FP8])
def test_beside_float16(precision: Precision, tmp_path: Path) -> None:
    """Ranges come from a float16 file; opset and scales are those that TensorRT's parser takes."""
    source, path = tmp_path / "source.onnx", tmp_path / "quantized.onnx"
    onnx_file.save(tiny.lowered("cls", SOME, precision=Precision.FP16, opset=precision.least_opset), source, {})
    found = quantize(source, path, tiny.pixels(8), {}, precision=precision, origin="noise", real=False)
    assert (found.products, found.rest, found.left) == (PRODUCTS, "fp16", 11)
    assert str(found).startswith(f"12 products in {found.numbers}, 11 left in fp16")
    assert onnx.load(path).opset_import[0].version == 19
    result = checked(path, precision=precision)
    assert result.passed
    assert result.outputs.max_abs > 1e-2  # it is another arithmetic
    assert result.in_fp32 is not None


@pytest.mark.e2e
@rtx
@needs_rtx
@pytest.mark.parametrize(
    ("precision", "capability"),
    [(Precision.FP8, "SM89"), (Precision.FP8, "SM120"), (Precision.INT8_FP16, "SM86"), (Precision.INT8_FP16, "SM120")],
)
def test_tensorrt_rtx_multiplies_all_products(precision: Precision, capability: str, tmp_path: Path) -> None:
    source, path = tmp_path / "source.onnx", tmp_path / "quantized.onnx"
    onnx_file.save(tiny.lowered("cls", SOME, precision=Precision.FP16, opset=precision.least_opset), source, {})
    quantize(source, path, tiny.pixels(8), {}, precision=precision, origin="noise", real=False)
    asked = EngineRequest(path, path.with_suffix(".engine"), RTX, BATCH, precision, compute_capabilities=(capability,))
    receipt = build_engine(asked)
    assert receipt.fusions is not None
    assert (receipt.fusions.quantized_products.in_file, receipt.fusions.quantized_products.left) == (PRODUCTS, ())
    numbers = "fp8" if precision is Precision.FP8 else "int8"
    assert receipt.to_dict()["structure"]["compute_layers"][numbers] == PRODUCTS


# --- From the command line ----------------------------------------------------------------------------------------


@pytest.mark.e2e
def test_the_demo_model_keeps_its_accuracy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few_digits(monkeypatch, 400)
    out = tmp_path / "out"
    arguments = ["demo_vit", "--precision", "int8", "--no-bench", "--no-engine", "-o", str(out), "--json", "-q"]
    assert run(*arguments) == 0
    stdout, stderr = capsys.readouterr()
    assert stderr == ""
    document = json.loads(stdout)
    assert sorted(path.name for path in out.iterdir()) == [
        "model.onnx",
        "report.html",
        "report.json",
        "report.md",
        "tokens.json",
    ]
    top1 = {row["artifact"]: row["top1"] for row in document["accuracy"]}
    assert set(top1) == {"full", "model.onnx"}
    assert top1["model.onnx"] >= top1["full"] - 0.01
    (entry,) = document["artifacts"]
    assert entry["precision"] == "int8"
    assert entry["ops"]["QuantizeLinear"] == 48
    assert entry["nodes"] == sum(entry["ops"].values())
    assert entry["bytes"] < 1_100_000
    assert entry["calibration"] == {
        "images": 32, "source": "demo set", "real": True, "method": module.METHOD,
        "numbers": "int8", "products": 48, "rest": "fp32", "left": 45, "attentions": 0, "skip": [],
    }  # fmt: skip
    (verified,) = document["verification"]
    assert verified["passed"]
    assert verified["tolerance"]["name"] == "int8"
    assert verified["decisions"]["largest_margin"] < 0.05
    assert not any("real images" in entry["step"] for entry in document["skipped"])
    assert "48 products in int8" in (out / "report.md").read_text(encoding="utf-8")


@pytest.mark.e2e
def test_generated_images_are_no_secret_and_int8_alone_is_timed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tofu_export.job.pipeline.run_benchmark", partial(run_benchmark, rules=Rules(min_seconds=0.1)))
    out = tmp_path / "out"
    arguments = ["test_vit", "--weights", "random", "--r", "8", "--precision", "int8", "--no-engine"]
    assert run(*arguments, "--batch", "1:1:2", "--threads", "1", "-o", str(out), "--json") == 0
    stdout, stderr = capsys.readouterr()
    document = json.loads(stdout)
    assert [row["artifact"] for row in document["benchmark"]] == ["full", "model.onnx"]
    assert document["benchmark"][1]["speedup_vs_full"] > 0
    assert document["artifacts"][0]["calibration"]["real"] is False
    assert any(entry["step"] == "calibration of model.onnx on real images" for entry in document["skipped"])
    assert "give real ones with --images DIR" in stderr
    assert "generated, not real ones" in (out / "report.md").read_text(encoding="utf-8")


def test_an_empty_folder_of_images_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    arguments = ["test_vit", "--weights", "random", "--precision", "int8", "--images", str(tmp_path / "images")]
    assert run(*arguments, "-o", str(tmp_path / "out")) == ExitCode.USAGE
    assert "no image in it" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
