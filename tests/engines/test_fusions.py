"""What became of attention and of quantised products, told from kernels that name their nodes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.engines import models
from tests.engines.kernels import kernel
from tests.linting.cases import constant
from tofu_export.engines.describing.fusions import find_fusions
from tofu_export.engines.describing.kernel_log import KernelLog
from tofu_export.options import Precision

BLOCKS = 4


def graph() -> onnx.GraphProto:
    """In each block a quantised product, one of activations, and attention; a softmax at the end that is none."""
    nodes = []
    for block in (f"blocks.{index}" for index in range(BLOCKS)):
        nodes += [
            helper.make_node("DequantizeLinear", ["x", "s"], [f"{block}x"], name=f"{block}/x"),
            helper.make_node("DequantizeLinear", ["w", "s"], [f"{block}w"], name=f"{block}/w"),
            helper.make_node("MatMul", [f"{block}x", f"{block}w"], [f"{block}q"], name=f"{block}.attn.qkv/MatMul"),
            helper.make_node("MatMul", [f"{block}q", f"{block}w"], [f"{block}s"], name=f"{block}.attn/scores"),
            helper.make_node("Softmax", [f"{block}s"], [f"{block}y"], name=f"{block}.attn/Softmax"),
        ]
    nodes.append(helper.make_node("Softmax", [f"{block}y"], ["y"], name="head/Softmax"))
    ends = [models.value("x", [2, 8], TensorProto.INT8), models.value("y", [2, 8])]
    constants = [constant("w", np.ones((8, 8)), np.int8), constant("s", 1, np.float32)]
    return models.model(nodes, ends[:1], ends[1:], constants).graph


def engine(*, fallen: int) -> KernelLog:
    """Kernels in which the last `fallen` blocks are dequantised and computed piece by piece."""
    records = []
    for index in range(BLOCKS):
        product, softmax = f"blocks.{index}.attn.qkv/MatMul", f"blocks.{index}.attn/Softmax"
        if index < BLOCKS - fallen:
            tactic = "_gemm_mha_v2_0x1" if index else "_gemv_mha_v1_0x2"
            records += [kernel("gemm", "", "fp8", product), kernel("runtime_fusion", tactic, "fp16", softmax)]
        else:
            records += [
                kernel("kgen", "", "fp8", f"blocks.{index}/x", product),
                kernel("gemm", "", "fp16", product),
                kernel("kgen", "__myl_MaxrSubExpSumDiv", "fp16", softmax),
            ]
    return KernelLog(tuple(records))


@pytest.mark.parametrize("fallen", [0, 1, BLOCKS])
def test_each_is_counted_and_what_is_left_is_named(fallen: int) -> None:
    found = find_fusions(graph(), engine(fallen=fallen))
    assert found is not None
    left = range(BLOCKS - fallen, BLOCKS)
    assert found.quantized_products.left == tuple(f"blocks.{index}.attn.qkv/MatMul" for index in left)
    assert found.fused_attention.left == tuple(f"blocks.{index}.attn/Softmax" for index in left)
    assert found.quantized_products.in_engine == found.fused_attention.in_engine
    made = BLOCKS - fallen
    assert str(found) == f"{made} of {BLOCKS} products quantised, {made} of {BLOCKS} attentions fused"
    remarks = found.remarks(Precision.FP8)
    assert len(remarks) == (2 if fallen else 0)
    if fallen == BLOCKS:
        assert "4 of 4 quantised products multiply in FP16 or FP32" in remarks[0]
        assert "blocks.2.attn.qkv/MatMul and 1 more" in remarks[0]
        assert "4 of 4 attentions are not fused" in remarks[1]


def in_8_bits(*, fallen: int) -> tuple[onnx.GraphProto, KernelLog]:
    """The same, with the softmax's result quantised in each block but the first; the last `fallen` multiply in FP16."""
    quantized = graph()
    for block in range(1, BLOCKS):
        node = helper.make_node("QuantizeLinear", [f"blocks.{block}y", "s"], [f"blocks.{block}z"])
        quantized.node.append(node)
    records = [
        kernel(
            "kgen", "_gemm_mha_v2_0x1", "fp8" if 0 < block < BLOCKS - fallen else "fp16", f"blocks.{block}.attn/Softmax"
        )
        for block in range(BLOCKS)
    ]
    return quantized, KernelLog(tuple(records))


@pytest.mark.parametrize("fallen", [0, 1])
def test_attention_in_8_bits_is_counted_apart(fallen: int) -> None:
    found = find_fusions(*in_8_bits(fallen=fallen))
    assert found is not None
    assert (found.fused_attention.in_file, found.fused_attention.in_engine) == (BLOCKS, BLOCKS)
    assert found.quantized_attention is not None
    assert (found.quantized_attention.in_file, found.quantized_attention.in_engine) == (BLOCKS - 1, BLOCKS - 1 - fallen)
    assert str(found).endswith(f"4 of 4 attentions fused, {BLOCKS - 1 - fallen} of 3 attentions in 8 bits")
    remarks = [remark for remark in found.remarks(Precision.FP8) if "do not multiply in 8 bits" in remark]
    assert len(remarks) == fallen
    assert not fallen or "blocks.3.attn/Softmax" in remarks[0]


def test_products_of_attention_are_none_with_weights() -> None:
    quantized = graph()
    before = find_fusions(quantized, engine(fallen=0))
    for name in ("q", "k"):
        quantized.node.append(helper.make_node("QuantizeLinear", ["x", "s"], [f"{name}8"]))
        quantized.node.append(helper.make_node("DequantizeLinear", [f"{name}8", "s"], [f"{name}16"]))
    quantized.node.append(helper.make_node("MatMul", ["q16", "k16"], ["qk"], name="blocks.0.attn/scores8"))
    after = find_fusions(quantized, engine(fallen=0))
    assert before is not None
    assert after is not None
    assert after.quantized_products == before.quantized_products


def test_fp32_has_no_fused_attention_to_miss() -> None:
    found = find_fusions(graph(), engine(fallen=1))
    assert found is not None
    assert [remark.split()[3] for remark in found.remarks(Precision.INT8)] == ["quantised"]


def test_kernels_without_nodes_say_nothing() -> None:
    assert find_fusions(graph(), KernelLog((kernel("gemm", "", "fp8"),))) is None
    assert find_fusions(graph(), KernelLog()) is None
