"""Each selection alone in a graph, in onnxruntime against its oracle, in every way to merge."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from onnx import TensorProto, helper

from tests import reference, reference_selections
from tests.graph_patterns.formulations import FORMULATIONS, RTOL, TYPES, as_model, normal, session_of
from tests.reference_selections import SELECTIONS
from tofu_export.errors import LoweringError
from tofu_export.graph_patterns.canonical import decision_name
from tofu_export.graph_patterns.lowering import lower
from tofu_export.options import Precision, Target, energy_margin

DEPTH, LAYER, CHANNELS, DIM = 5, 2, 16, 8
DECIDABLE = 1e-6
"""Margin from which scores in float32 cannot turn a decision."""


def graph(
    select: str, method: str, tokens: int, prefix: int, removed: int, precision: Precision, **changes: Any
) -> onnx.ModelProto:
    kind = TYPES[precision]

    def value(name: str, of: int, *shape: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, of, ["batch", *shape])

    inputs = [
        value("x", kind, tokens, CHANNELS),
        value("metric", kind, tokens, DIM),
        value("sizes", TensorProto.FLOAT, tokens, 1),
        value("positions", TensorProto.INT64, tokens, 1),
        value("rows", TensorProto.INT64, tokens, 1),
        value("groups", TensorProto.INT64, tokens - prefix, 1),
        value("seen", TensorProto.FLOAT, tokens),
    ]
    left = tokens - removed
    outputs = [
        value("fused", kind, left, CHANNELS),
        value("new_sizes", TensorProto.FLOAT, left, 1),
        value("new_positions", TensorProto.INT64, left, 1),
        value("new_rows", TensorProto.INT64, tokens, 1),
        value("new_groups", TensorProto.INT64, tokens - prefix, 1),
    ]
    attributes = {
        "r": removed, "method": method, "prefix": prefix, "tokens": tokens, "layer": LAYER,
        "pruned_sizes": "take-over", "select": select, "margin": energy_margin(LAYER, DEPTH),
    }  # fmt: skip
    given = [each.name for each in inputs[: 7 if select in ("class-attention", "predictor") else 6]]
    node = helper.make_node(
        "Fuse", given, [each.name for each in outputs], name="reduction", domain="tofu", **{**attributes, **changes}
    )
    return as_model([node], [each for each in inputs if each.name in given], outputs)


@FORMULATIONS
@pytest.mark.parametrize("select", SELECTIONS)
@pytest.mark.parametrize("method", reference.METHODS)
def test_every_method(form: tuple[Target, Precision], method: str, select: str) -> None:
    for (tokens, prefix), share in itertools.product(((14, 0), (15, 1), (15, 2)), (0.1, 0.6, 1.0)):
        removed = max(1, int(share * ((tokens - prefix) // 2)))
        session = session_of(lower(ir.from_proto(graph(select, method, tokens, prefix, removed, form[1])), *form))
        dtype = session.inputs["x"].dtype
        x = normal(1, 2, tokens, CHANNELS).astype(dtype)
        metric = (normal(2, 2, tokens, DIM) + 1.5 * normal(4, 2, 1, DIM)).astype(dtype)
        rows = np.tile(np.arange(tokens)[:, None], (2, 1, 1))
        feeds = {
            "x": x, "metric": metric, "positions": 7 + 3 * rows, "rows": rows, "groups": rows[:, prefix:] + 1,
            "sizes": np.random.default_rng(5).integers(1, 9, size=(2, tokens, 1)).astype(np.float32),
            "seen": np.exp(normal(6, 2, tokens)) / 50,
        }  # fmt: skip
        out = session.run({name: feeds[name] for name in session.inputs})
        for image in range(2):
            given = (metric[image].astype(float), feeds["seen"][image].astype(float), prefix, removed, LAYER)
            assert reference_selections.margin(select, *given, DEPTH) > DECIDABLE, "choose another seed"
            matching, weights = reference_selections.chooser(select, DEPTH)(*given)
            tokens_out, sizes_out = reference.apply_matching(
                x[image], matching, method, prefix, feeds["sizes"][image, :, 0], weights_one=weights
            )
            tolerance = RTOL[np.dtype(dtype)] * float(np.abs(x.astype(float)).max())
            assert_allclose(out["fused"][image].astype(float), tokens_out, rtol=0, atol=tolerance)
            assert_array_equal(out["new_sizes"][image, :, 0], sizes_out)
            staying = [*range(prefix), *matching.destinations]
            assert out["new_positions"][image, :, 0].tolist() == [7 + 3 * place for place in staying]
            assert out["new_rows"][image, :, 0].tolist() == reference.stand_ins([matching], prefix, tokens)
            became = reference.groups([matching], [method], prefix, tokens)[prefix:]
            assert (out["new_groups"][image, :, 0] - 1).tolist() == became


@pytest.mark.parametrize("select", SELECTIONS)
def test_a_pruning_alone_looks_for_no_partner(select: str) -> None:
    proto = graph(select, "prune", 15, 1, 4, Precision.FP32)
    (node,) = proto.graph.node
    del node.input[2:6], node.output[1:]
    if select == "class-attention":
        node.input[2:] = ["", "", "", "", "seen"]
    del proto.graph.output[1:]
    lowered = ir.to_proto(lower(ir.from_proto(proto), Target.PORTABLE, Precision.FP32))
    produced = {name for node in lowered.graph.node for name in node.output}
    found = [kind for kind in ("kept", "matched", "target", "partners") if decision_name(LAYER, kind) in produced]
    assert found == (["kept"] if select in ("energy", "class-attention") else [])


@FORMULATIONS
@pytest.mark.parametrize("method", ["prune", "average"])
def test_a_trained_score_is_ranked_as_class_attention_is(form: tuple[Target, Precision], method: str) -> None:
    """Without a metric, and beyond half of the tokens."""
    outputs = []
    for select, removed in (("class-attention", 7), ("predictor", 7), ("predictor", 12)):
        proto = graph(select, method, 15, 1, removed, form[1])
        if select == "predictor":
            (node,) = proto.graph.node
            node.input[1] = ""
            del proto.graph.input[1]
        session = session_of(lower(ir.from_proto(proto), *form))
        dtype = session.inputs["x"].dtype
        rows = np.tile(np.arange(15)[:, None], (2, 1, 1))
        feeds = {
            "x": normal(1, 2, 15, CHANNELS).astype(dtype), "metric": normal(2, 2, 15, DIM).astype(dtype),
            "positions": rows, "rows": rows, "groups": rows[:, 1:] + 1, "sizes": np.ones((2, 15, 1), np.float32),
            "seen": np.exp(normal(6, 2, 15)) / 50,
        }  # fmt: skip
        outputs.append(session.run({name: feeds[name] for name in session.inputs}))
        staying = np.argsort(feeds["seen"][:, 1:], axis=1, kind="stable")[:, removed:]
        assert np.array_equal(outputs[-1]["new_positions"][:, 1:, 0], 1 + np.sort(staying, axis=1))
    for name, value in outputs[0].items():
        assert_array_equal(outputs[1][name], value)


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ("best", "unknown selection 'best'"),
        ("class-attention", "layer 2: class-attention needs the input importance"),
        ("predictor", "layer 2: predictor needs the input importance"),
    ],
)
def test_what_cannot_be_lowered_is_refused(select: str, message: str) -> None:
    proto = graph(select, "mlerp", 15, 1, 4, Precision.FP32)
    node = proto.graph.node[0]
    if len(node.input) > 6:
        del node.input[6:]
    with pytest.raises(LoweringError, match=message):
        lower(ir.from_proto(proto), Target.PORTABLE, Precision.FP32)
