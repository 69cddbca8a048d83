"""Narrowing the end of a graph to the tokens that are read: the same numbers, fewer of them."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
import torch
from numpy.testing import assert_allclose
from onnx_ir.passes import common

from tests import tiny
from tests.sampling import sampled
from tofu_export.graph_patterns.lean.tail import narrow_tail
from tofu_export.graph_patterns.lowering import census
from tofu_export.graph_patterns.naming import name_by_stage
from tofu_export.options import Reduction
from tofu_export.system.ort import open_session
from tofu_export.trace.export import INPUT_NAME, OUTPUT_NAME

READ = {"cls": 1, "distilled": 2, "registers": 1, "qk-norm": 1, "layer-scale": 1, "norm-pre": 1, "no-embed-class": 1}
"""Tokens that the heads of these models read; those of the others read all."""

R = Reduction(r=(3, 2, 4), pattern="PAM")


def narrowed(model: ir.Model) -> int:
    name_by_stage(model)
    count = narrow_tail(model)
    common.RemoveUnusedNodesPass()(model)
    common.TopologicalSortPass()(model)
    return count


def last_mlp_tokens(model: ir.Model) -> int:
    (product,) = (node for node in model.graph if node.name == f"blocks.{tiny.DEPTH - 1}.mlp.fc1/MatMul")
    shape = onnx.shape_inference.infer_shapes(ir.to_proto(model)).graph.value_info
    (info,) = (info for info in shape if info.name == product.outputs[0].name)
    return int(info.type.tensor_type.shape.dim[1].dim_value)


@pytest.mark.e2e
@pytest.mark.parametrize("name", sampled(tiny.MODELS, ("cls", "distilled", "registers", "avg", "no-embed-class")))
@pytest.mark.parametrize("reduction", [R, Reduction(r=0)], ids=["reduced", "full"])
def test_models_whose_head_reads_class_tokens_are_narrowed(name: str, reduction: Reduction) -> None:
    model = tiny.canonical(name, reduction)
    fuses = sum(node.op_type.startswith("Fuse") for node in model.graph)
    count = narrowed(model)
    assert (count > 0) is (name in READ)
    left = sum(node.op_type.startswith("Fuse") for node in model.graph)
    assert left == (fuses - 1 if fuses and name in READ else fuses)
    if name in READ:
        assert last_mlp_tokens(model) == READ[name]


@pytest.mark.parametrize("name", sampled(READ, ("cls", "distilled", "registers")))
@pytest.mark.parametrize("reduction", [R, Reduction(r=(3, 2, 4), pattern="TTT"), Reduction(r=0)])
def test_narrowed_files_compute_what_the_model_computes(name: str, reduction: Reduction) -> None:
    session = open_session(tiny.to_bytes(tiny.lowered(name, reduction)))
    for batch in (1, 3):
        x = tiny.pixels(batch)
        with torch.no_grad():
            expected = tiny.reduced(name, reduction)(torch.from_numpy(x)).numpy()
        assert_allclose(session.run({INPUT_NAME: x})[OUTPUT_NAME], expected, rtol=0, atol=2e-5)


def test_a_sequence_that_is_an_output_stays_whole() -> None:
    model = tiny.canonical("cls", R)
    norm = next(node for node in model.graph if node.op_type == "Gather").inputs[0]
    assert norm is not None
    model.graph.outputs.append(norm)
    whole = tiny.canonical("cls", R)
    common.RemoveUnusedNodesPass()(whole)  # of which older exporters leave some
    assert narrowed(model) == 0
    assert census(model) == census(whole)
