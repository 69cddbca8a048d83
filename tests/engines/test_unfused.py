"""Reasons for attention that is no single kernel."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from tests import tiny
from tests.engines.kernels import kernel
from tests.graph_patterns.attention_files import written
from tofu_export.engines.describing.fusions import find_fusions
from tofu_export.engines.describing.kernel_log import KernelLog
from tofu_export.engines.describing.unfused import reasons_of
from tofu_export.options import AttentionForm, Precision

NAME = "blocks.0.attn/weights"


def attention(*between: str, head: int = 64, cast: bool = False, product: bool = True) -> Any:
    """A softmax of `q k`, with operators between."""
    names = ["q", "k"]
    nodes = [helper.make_node("Transpose", ["k0"], ["k"], perm=[0, 1, 3, 2])]
    if cast:
        nodes.append(helper.make_node("Cast", ["q"], ["wide"], to=TensorProto.FLOAT))
        names[0] = "wide"
    nodes.append(helper.make_node("MatMul" if product else "Einsum", names, ["scores"]))
    last = "scores"
    for index, kind in enumerate(between):
        inputs = [last, f"other{index}"]
        if kind == "Sub":
            nodes.append(helper.make_node("ReduceMax", [last], [f"other{index}"]))
        nodes.append(helper.make_node(kind, inputs[:1] if kind == "Cast" else inputs, [f"y{index}"]))
        last = f"y{index}"
    nodes.append(helper.make_node("Softmax", [last], ["p"], name=NAME))
    shapes = {"q": [1, 2, 8, head], "k0": [1, 2, 8, head]}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, shape) for name, shape in shapes.items()]
    return helper.make_graph(nodes, "g", inputs, [])


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (attention(), None),
        (attention("Mul", "Add"), None),
        (attention("Mul", "Where", head=16), None),
        (attention("Add", "Sub"), "largest score is subtracted"),
        (attention("Add", head=8), "heads have 8 numbers, and kernels are for 16 to 256"),
        (attention(head=288), "heads have 288 numbers"),
        (attention(cast=True), "its products are in FP32"),
        (attention("Cast"), "its softmax is in another type"),
        (attention(product=False), "no product of queries and keys"),
    ],
)
def test_what_the_nodes_tell(graph: Any, reason: str | None) -> None:
    found = reasons_of(graph, [NAME])
    assert found == {} if reason is None else reason in found[NAME]
    assert reasons_of(graph, []) == {}


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        (AttentionForm.FUSED, f"its heads have {24 // tiny.HEADS} numbers"),
        (AttentionForm.FP32_ACCUMULATE, "its products are in FP32"),
        (AttentionForm.UNFUSED, "its largest score is subtracted"),
    ],
)
def test_files_of_this_project(form: AttentionForm, reason: str) -> None:
    """The note of an engine has each reason once."""
    graph = ir.to_proto(written(form)).graph
    found = find_fusions(graph, KernelLog((kernel("gemm", "", "fp16", "blocks.0.attn.qkv/MatMul"),)))
    assert found is not None
    assert set(found.why_not_fused) == set(found.fused_attention.left)
    (remark,) = found.remarks(Precision.FP16)
    assert remark.count(reason) == 1
    assert remark.endswith(")")
