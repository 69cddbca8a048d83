"""Attention is found in what lowering writes, and nothing else is taken for it."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from tests import families, tiny
from tofu_export.graph_patterns.attention.find import attentions_of
from tofu_export.graph_patterns.lowering import lower
from tofu_export.options import Precision, Reduction, Target
from tofu_export.trace.export import trace

SOME = Reduction(r=(3, 2, 4), pattern="PAM")


@pytest.mark.parametrize("target", list(Target))
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
def test_one_in_each_block(target: Target, precision: Precision) -> None:
    """With and without a bias, and where an odd number of keys is padded."""
    found = attentions_of(tiny.lowered("cls", SOME, target, precision=precision))
    stages = [str(each.softmax.name).rpartition("/")[0] for each in found]
    assert [stage.split("/")[0] for stage in stages] == [f"blocks.{block}.attn" for block in range(tiny.DEPTH)]
    for each, stage in zip(found, stages, strict=True):
        assert (each.scores.name, each.attended.name) == (f"{stage}/scores", f"{stage}/attended")


@pytest.mark.e2e
def test_talking_heads_are_none() -> None:
    """CaiT mixes heads between its products; its two queries of a class token alone are ordinary attention."""
    model = lower(trace(families.reduced("cait", Reduction(r=3)), tiny.SHAPE), Target.PORTABLE, Precision.FP32)
    softmaxes = [str(node.name) for node in model.graph if node.op_type == "Softmax"]
    found = [str(each.softmax.name) for each in attentions_of(model)]
    assert found == [name for name in softmaxes if name.startswith("blocks_token_only.")]
    assert len(softmaxes) > len(found) > 0


def attention(between: str | None = None, *, axis: int = -1, readers: int = 1, weights: bool = False) -> ir.Model:
    """`softmax(q k + b) v`, or something like it."""
    nodes = [helper.make_node("MatMul", ["q", "k"], ["scores"]), helper.make_node("Add", ["b", "scores"], ["biased"])]
    if between is not None:
        nodes.append(helper.make_node(between, ["biased"], ["changed"]))
    nodes.append(helper.make_node("Softmax", ["changed" if between else "biased"], ["p"], axis=axis))
    nodes += [helper.make_node("MatMul", ["p", "v"], [f"y{index}"]) for index in range(readers)]
    shapes = {"q": [2, 3, 4, 8], "k": [2, 3, 8, 4], "v": [2, 3, 4, 8], "b": [2, 1, 1, 4]}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    outputs = [helper.make_tensor_value_info(f"y{index}", TensorProto.FLOAT, None) for index in range(readers)]
    constants = [helper.make_tensor("v", TensorProto.FLOAT, [8, 8], [0.5] * 64)] if weights else []
    given = inputs[:-2] + inputs[-1:] if weights else inputs
    graph = helper.make_graph(nodes, "g", given, outputs, constants)
    return ir.from_proto(helper.make_model(graph))


def test_a_bias_may_come_first() -> None:
    (found,) = attentions_of(attention())
    assert [node.op_type for node in (found.scores, found.softmax, found.attended)] == ["MatMul", "Softmax", "MatMul"]


@pytest.mark.parametrize(
    "other", [{"between": "Relu"}, {"axis": 1}, {"readers": 2}, {"readers": 0}, {"weights": True}], ids=str
)
def test_what_is_none(other: dict[str, object]) -> None:
    assert attentions_of(attention(**other)) == []  # type: ignore[arg-type]  # the ids show what differs
