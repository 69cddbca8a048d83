"""Files against the eager UNet: what is right passes, and each kind of mistake is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from tests.diffusion import tiny_unet
from tofu_export.diffusion.options import UnetMode, UnetReduction
from tofu_export.diffusion.verify import batches_of, verify_unet
from tofu_export.engines.building.build import EngineRequest, build_engine
from tofu_export.engines.flavours import RTX
from tofu_export.errors import VerificationError
from tofu_export.options import BatchRange, Precision
from tofu_export.system.ort import open_session
from tofu_export.verification.result import VerificationResult

LATENT = "9x7"
REDUCTION = UnetReduction(max_downsample=2, merge_crossattn=True, merge_mlp=True, ratio=0.4)
"""Every part of every block, at a size that no cell divides."""


@pytest.fixture(scope="module")
def full_precision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_unet.file(tmp_path_factory.mktemp("fp32"), LATENT, REDUCTION)


@pytest.fixture(scope="module")
def half_precision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_unet.file(tmp_path_factory.mktemp("fp16"), "8", None, Precision.FP16)


def verify(
    path: Path,
    unet: nn.Module | None = None,
    reduction: UnetReduction = REDUCTION,
    precision: Precision = Precision.FP32,
    latent: str = LATENT,
) -> VerificationResult:
    return verify_unet(
        path, unet or tiny_unet.build(latent, reduction), tiny_unet.plan(latent, reduction), tiny_unet.inputs(latent),
        precision=precision, batch=tiny_unet.BATCH,
    )  # fmt: skip


@pytest.mark.e2e
def test_equals_eager_at_1_2_3_and_an_odd_size(full_precision: Path) -> None:
    result = verify(full_precision)
    assert result.passed, str(result)
    assert result.batches == (1, 2, 3)
    assert result.outputs.relative < 1e-5
    removed = sum(block.removed for block in tiny_unet.plan(LATENT, REDUCTION).reduced)
    assert result.decisions.compared == 6 * 2 * removed  # six images; which leave, and where to
    assert result.decisions.flips == 0


@pytest.mark.e2e
def test_half_precision(half_precision: Path) -> None:
    result = verify(half_precision, reduction=UnetReduction(), precision=Precision.FP16, latent="8")
    assert result.passed, str(result)
    assert 1e-5 < result.outputs.relative < 1e-2
    graph = onnx.load(half_precision).graph
    assert {tensor.data_type for tensor in graph.initializer if tensor.name.endswith("weight")} == {
        onnx.TensorProto.FLOAT16
    }
    assert {value.name: value.type.tensor_type.elem_type for value in graph.input}["timestep"] == onnx.TensorProto.FLOAT


def test_names_are_those_of_diffusers_onnx_pipelines(full_precision: Path) -> None:
    session = open_session(full_precision)
    shapes = {name: spec.shape for name, spec in session.inputs.items()}
    assert shapes == {
        "sample": (None, 4, 9, 7), "timestep": (1,), "encoder_hidden_states": (None, tiny_unet.TEXT, 16),
    }  # fmt: skip
    assert {name: spec.shape for name, spec in session.outputs.items()} == {"out_sample": (None, 4, 9, 7)}


def test_nothing_that_tensorrt_rejects(full_precision: Path) -> None:
    nodes = onnx.load(full_precision).graph.node
    assert not [node.name for node in nodes for attribute in node.attribute if attribute.name == "reduction"]
    assert not [node.name for node in nodes if node.domain]


@pytest.mark.e2e
@pytest.mark.parametrize("change", ["weight", "mode", "ratio"])
def test_another_unet_is_found_out(full_precision: Path, change: str) -> None:
    if change == "weight":
        unet = tiny_unet.build(LATENT, REDUCTION)
        with torch.no_grad():
            unet.conv_out.bias[0] += 1e-3  # type: ignore[operator,index]
        assert not verify(full_precision, unet).passed
        return
    other = {
        "mode": UnetReduction(mode=UnetMode.TOME, max_downsample=2, merge_crossattn=True, merge_mlp=True, ratio=0.4),
        "ratio": UnetReduction(max_downsample=2, merge_crossattn=True, merge_mlp=True, ratio=0.3),
    }[change]
    result = verify(full_precision, reduction=other)
    assert not result.passed
    assert "FAILED" in str(result)
    assert result.outputs.relative > 1e-5 or result.decisions.wrong > 0


def damaged(path: Path, folder: Path, change: Callable[[onnx.GraphProto], None]) -> Path:
    model = onnx.load(path)
    change(model.graph)
    onnx.save(model, folder / "damaged.onnx")
    return folder / "damaged.onnx"


def set_attribute(graph: onnx.GraphProto, op_type: str, name: str, value: int) -> None:
    for node in graph.node:
        if node.op_type == op_type:
            for attribute in node.attribute:
                if attribute.name == name:
                    attribute.i = value


def test_sources_that_stay_when_they_should_leave(full_precision: Path, tmp_path: Path) -> None:
    path = damaged(full_precision, tmp_path, lambda graph: set_attribute(graph, "TopK", "largest", 1))
    result = verify(path)
    assert not result.passed
    assert result.decisions.wrong > 0
    assert result.outputs.relative < 1e-5  # the eager model follows: its arithmetic is right


def test_a_missing_decision_is_an_error(full_precision: Path, tmp_path: Path) -> None:
    def rename(graph: onnx.GraphProto) -> None:
        for node in graph.node:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    names[index] = name.replace("match/nearest", "match/closest")

    with pytest.raises(VerificationError, match="match/nearest"):
        verify(damaged(full_precision, tmp_path, rename))


def test_nan_fails(full_precision: Path, tmp_path: Path) -> None:
    def poison(graph: onnx.GraphProto) -> None:
        for tensor in graph.initializer:
            if tensor.name == "conv_out.bias":
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(4, np.nan, dtype=np.float32), tensor.name))

    result = verify(damaged(full_precision, tmp_path, poison))
    assert not result.passed
    assert result.to_dict()["relative"] is None


def test_batches() -> None:
    assert batches_of(BatchRange(1, 2, 8)) == (1, 2, 3)
    assert batches_of(BatchRange(2, 2, 2)) == (2,)
    assert batches_of(BatchRange(4, 8, 8)) == (4,)


@pytest.mark.e2e
@pytest.mark.rtx
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
def test_tensorrt_rtx_builds_it(
    precision: Precision, full_precision: Path, half_precision: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    path = full_precision if precision is Precision.FP32 else half_precision
    receipt = build_engine(
        EngineRequest(
            onnx_path=path, engine_path=tmp_path / "unet.engine", flavour=RTX, batch=tiny_unet.BATCH,
            precision=precision, compute_capabilities=("SM89",),
        )
    )  # fmt: skip
    assert (tmp_path / "unet.engine").stat().st_size == receipt.engine_bytes > 0
    assert receipt.precision is precision
