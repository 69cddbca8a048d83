"""Lowering of `tofu::Halt`: the eager formula, in float32 in every precision, under names that verification knows."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.testing import assert_allclose

from tests import tiny
from tests.graph_patterns.test_tail import last_mlp_tokens, narrowed
from tofu_export.graph_patterns.halting import working_name
from tofu_export.graph_patterns.lowering import MACS, lower
from tofu_export.options import Halting, HaltingOptions, Precision, Reduction, Selection, Target
from tofu_export.system.ort import open_session
from tofu_export.trace.export import INPUT_NAME, trace
from tofu_export.verification.watch import mark_as_outputs

GATE = Halting(3, 1, 0.2)
MASKED = Reduction(select=Selection.HALTING, halting=HaltingOptions.of(GATE))
PLACES = Reduction(r=(0, 4, 3), select=Selection.HALTING, halting=HaltingOptions.of(GATE))


def canonical(reduction: Reduction, precision: Precision = Precision.FP32, name: str = "cls") -> ir.Model:
    return trace(tiny.reduced(name, reduction), tiny.SHAPE, precision=precision)


@pytest.mark.parametrize("reduction", [MASKED, PLACES], ids=["masked", "places"])
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
def test_every_block_but_the_last_spends_by_the_gate(reduction: Reduction, precision: Precision) -> None:
    graph = canonical(reduction, precision)
    halts = [node for node in graph.graph if node.op_type == "Halt"]
    assert [node.attributes["layer"].as_int() for node in halts] == [0, 1]
    file = ir.to_proto(lower(graph, Target.PORTABLE, precision))
    stages = [f"blocks.{layer}/halt" for layer in (0, 1)]
    parts = ("wide" if precision is Precision.FP16 else "channel", "score", "left", "working")
    mark_as_outputs(file, [f"{stage}/{part}" for stage in stages for part in parts])
    found = open_session(file.SerializeToString()).run({INPUT_NAME: tiny.pixels(2)})
    before = np.ones((2, 17, 1), dtype=np.float32)
    for stage in stages[:1] if reduction is PLACES else stages:
        channel, score, left, working = (found[f"{stage}/{part}"] for part in parts)
        assert {value.dtype for value in (channel, score, left, working)} == {np.dtype(np.float32)}
        assert_allclose(score, 1 / (1 + np.exp(1 - 3 * channel.astype(np.float64))), atol=1e-6)
        assert_allclose(left, before - score, atol=1e-6)
        assert (working == (left > 0.2)).all()
        assert 0 < working.sum() < working.size
        before = left * working
    assert [working_name(layer) for layer in (0, 1)] == [f"{stage}/working" for stage in stages]


@pytest.mark.parametrize(("name", "prefix"), [("cls", 1), ("distilled", 2)])
def test_the_last_block_computes_the_class_token_alone(name: str, prefix: int) -> None:
    graph = canonical(MASKED, name=name)
    assert narrowed(graph) > 0
    assert last_mlp_tokens(graph) == prefix


def test_places_save_what_the_plan_says() -> None:
    def macs(reduction: Reduction) -> int:
        return int(lower(canonical(reduction), Target.PORTABLE, Precision.FP32).meta[MACS])

    saved = macs(MASKED) - macs(PLACES)
    planned = tiny.plan_of("cls", MASKED).macs_reduced - tiny.plan_of("cls", PLACES).macs_reduced
    assert (
        0.4 * planned < saved <= planned
    )  # without norms, and the last of three blocks computes keys and values alone


def test_files_have_a_count_only_if_tokens_leave() -> None:
    outputs = {}
    for reduction in (MASKED, PLACES):
        graph: onnx.GraphProto = ir.to_proto(lower(canonical(reduction), Target.PORTABLE, Precision.FP32)).graph
        outputs[reduction.r] = {value.name: value.type.tensor_type.elem_type for value in graph.output}
    assert outputs == {
        0: {"logits": onnx.TensorProto.FLOAT},
        (0, 4, 3): {"logits": onnx.TensorProto.FLOAT, "tokens_over_capacity": onnx.TensorProto.INT64},
    }


def test_positions_that_nothing_reads_are_not_in_a_file() -> None:
    graph = lower(canonical(PLACES), Target.PORTABLE, Precision.FP32)
    assert not [node.name for node in graph.graph if "positions" in (node.name or "")]
