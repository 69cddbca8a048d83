"""FP32 products for SM75: the same numbers in onnxruntime, and a build where there was none."""

from __future__ import annotations

import importlib.util

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from tests.engines import models
from tests.linting.cases import constant
from tofu_export.engines.building.build import EngineRequest, build_engine
from tofu_export.engines.building.turing import pairwise_products
from tofu_export.engines.flavours import RTX
from tofu_export.errors import EngineBuildError
from tofu_export.options import BatchRange, Precision


def similarity(rank: int = 3, opset: int = 18) -> onnx.ModelProto:
    """FP16 keys from an FP16 product, their FP32 similarity, its maximum."""
    shape = ["batch", *([3] if rank == 4 else []), 10, 16]
    swapped = [*range(rank - 2), rank - 1, rank - 2]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["k"], name="blocks.0.attn.k/MatMul"),
        helper.make_node("Cast", ["k"], ["f"], name="blocks.0/fuse/match/keys", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["f"], ["t"], name="blocks.0/fuse/match/across", perm=swapped),
        helper.make_node("MatMul", ["f", "t"], ["s"], name="blocks.0/fuse/match/product"),
        helper.make_node("Softmax", ["s"], ["y"], name="blocks.0/fuse/match/best", axis=-1),
    ]
    inputs, outputs = [models.value("x", shape, TensorProto.FLOAT16)], [models.value("y", [*shape[:-1], 10])]
    random = np.random.default_rng(0)
    weights = [constant("w", random.standard_normal((16, 16)), np.float16)]
    return models.model(nodes, inputs, outputs, weights, opset)


@pytest.mark.parametrize("rank", [3, 4])
def test_the_same_numbers(rank):
    before, after = similarity(rank), similarity(rank)
    assert pairwise_products(after) == ("blocks.0/fuse/match/product",)
    onnx.checker.check_model(after, full_check=True)
    x = np.random.default_rng(1).standard_normal((2, *([3] if rank == 4 else []), 10, 16)).astype(np.float16)
    results = [
        onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})
        for proto in (before, after)
    ]
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-5, atol=1e-6)
    assert np.abs(results[0][0]).max() > 0.1


def test_names_stay_with_the_part_of_the_model():
    proto = similarity()
    pairwise_products(proto)
    added = [node.name for node in proto.graph.node if node.name.startswith("blocks.0/fuse/match/product")]
    assert len(added) == 5
    assert added[-1] == "blocks.0/fuse/match/product"


@pytest.mark.parametrize("proto", [models.block("fp32"), models.block("fp16"), similarity(opset=11)])
def test_products_with_weights_in_fp16_or_of_old_files_stay(proto):
    before = proto.SerializeToString()
    assert pairwise_products(proto) == ()
    assert proto.SerializeToString() == before


@pytest.mark.rtx
@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
class TestBuild:
    @pytest.mark.parametrize("external", [False, True])
    def test_builds_for_turing(self, external, tmp_path):
        path = tmp_path / "model.onnx"
        kinds = {"save_as_external_data": True, "location": "model.data", "size_threshold": 0} if external else {}
        onnx.save(similarity(), path, **kinds)
        asked = EngineRequest(path, tmp_path / "out" / "m.engine", RTX, BatchRange(1, 2, 4), Precision.FP16, ("SM75",))
        receipt = build_engine(asked)
        assert receipt.layers["MATRIX_MULTIPLY"] == {"fp16": 1}
        assert receipt.notes == (
            "1 FP32 products of activations are built as Mul and ReduceSum: SM75 has no FP32 GEMM",
        )
        assert receipt.structure.parts["matching"].kernels >= 1
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["m.engine"]

    def test_others_keep_the_product(self, tmp_path):
        path = models.save(similarity(), tmp_path)
        asked = EngineRequest(
            path, tmp_path / "m.engine", RTX, BatchRange(1, 2, 4), Precision.FP16, ("SM80",), least_share=0.5
        )
        receipt = build_engine(asked)
        assert receipt.layers["MATRIX_MULTIPLY"] == {"fp16": 1, "fp32": 1}
        assert receipt.notes == ()

    def test_weights_in_another_folder(self, tmp_path):
        (tmp_path / "deep").mkdir()
        path = tmp_path / "model.onnx"
        onnx.save(similarity(), path, save_as_external_data=True, location="deep/model.data", size_threshold=0)
        asked = EngineRequest(path, tmp_path / "m.engine", RTX, BatchRange(), Precision.FP16, ("SM75",))
        with pytest.raises(EngineBuildError, match="put them beside it"):
            build_engine(asked)
