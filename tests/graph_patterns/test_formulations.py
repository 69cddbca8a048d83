"""Every formulation, alone in a graph, in onnxruntime against the oracle; and what lowering must refuse or keep."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from onnx import TensorProto, helper

from tests import reference, tiny
from tests.graph_patterns.formulations import (
    CHANNELS,
    DIM,
    FORMULATIONS,
    HALF,
    ONEHOT,
    REFUSED_BY_TENSORRT,
    RTOL,
    SCATTER,
    TYPES,
    Array,
    Case,
    as_model,
    decisions_of,
    normal,
    session_of,
)
from tofu_export.errors import LoweringError
from tofu_export.graph_patterns.attention.aligned import aligned
from tofu_export.graph_patterns.attention.decomposed import decomposed
from tofu_export.graph_patterns.attention.rules import Attend
from tofu_export.graph_patterns.canonical import decision_name
from tofu_export.graph_patterns.fuse.formulation import Formulation
from tofu_export.graph_patterns.fuse.match_rank import RANKED_SOURCES, match_rank
from tofu_export.graph_patterns.fuse.match_sort import match_sort
from tofu_export.graph_patterns.fuse.merge_onehot import merge_onehot
from tofu_export.graph_patterns.fuse.merge_scatter import merge_scatter
from tofu_export.graph_patterns.lowering import census, lower
from tofu_export.graph_patterns.recipe import Recipe
from tofu_export.graph_patterns.table import RECIPES, recipe_for, rules_for
from tofu_export.options import Precision, Target
from tofu_export.system.ort import OrtSession, open_session

# Methods with and without tracked sizes; those that weigh by them cannot do without.
SIZED = [
    (method, sized)
    for method in reference.METHODS
    for sized in (False, True)
    if sized or method not in reference.WEIGHED
]


DECIDABLE = 1e-6
"""Similarity margin from which the float32 island (error about 1e-7) cannot flip a decision."""


def signs(seed: int, *shape: int) -> Array:
    """Entries of -1 and 1: with a last axis of 4 or 16 every similarity is exact, and most of them tie."""
    return np.random.default_rng(seed).choice([-1.0, 1.0], size=shape).astype(np.float32)


def check(
    session: OrtSession, case: Case, x: Array, metric: Array, sizes: Array | None = None, *, exact: bool = False
) -> Array:
    """Run a graph and hold tokens, sizes and decisions to the oracle on the same, rounded inputs.

    `exact` says that every similarity is exact, so that ties are ties everywhere.
    """
    dtype = session.inputs["x"].dtype
    x, metric = x.astype(dtype), metric.astype(dtype)
    if sizes is None and case.sized:
        sizes = np.random.default_rng(9).integers(1, 9, size=(*x.shape[:2], 1)).astype(np.float32)
    feeds = {"x": x, "metric": metric, **({"sizes": sizes} if case.sized else {})}
    out = session.run({name: feeds[name] for name in session.inputs})
    fused = out["fused"].astype(np.float64)
    kept_name, matched_name, target_name, assigned_name = decisions_of(case.layer)
    tolerance = RTOL[np.dtype(dtype)] * float(np.abs(x.astype(np.float64)).max())
    assert fused.shape == (len(x), case.tokens - case.removed, case.channels)
    assert np.isfinite(fused).all()
    for image in range(len(x)):
        matching = reference.match(metric[image], case.prefix, case.removed)
        if not exact:
            assert reference.margin(matching) > DECIDABLE, "choose another seed"
        tokens, out_sizes = reference.apply_matching(
            x[image],
            matching,
            case.method,
            case.prefix,
            sizes[image, :, 0] if case.sized and sizes is not None else None,
            takes_over=case.takes_over,
        )
        assert_allclose(fused[image], tokens, rtol=0, atol=tolerance)
        hit = set() if case.method == "prune" else {destination for _, destination in matching.matched}
        rows = [*range(case.prefix), *matching.kept, *matching.destinations]
        single = [row for row, position in enumerate(rows) if position not in hit]
        if case.method == "prune":
            assert_array_equal(fused[image], tokens)
        assert_array_equal(fused[image][: case.prefix + len(matching.kept)], tokens[: case.prefix + len(matching.kept)])
        assert_allclose(fused[image][single], tokens[single], rtol=2.0**-10 if dtype == np.float16 else 1e-6, atol=0)
        if case.sized:
            assert_array_equal(out["new_sizes"][image, :, 0], out_sizes)
        rank = {position: index for index, position in enumerate(case.sources)}
        row = {position: index for index, position in enumerate(matching.destinations)}
        if kept_name in out:
            assert out[kept_name][image].tolist() == [rank[source] for source in matching.kept]
        else:
            assert not matching.kept
        if not case.aims:
            assert not {matched_name, target_name, assigned_name} & set(out)
        elif assigned_name in out:
            targets = {rank[source]: row[target] for source, target in matching.matched}
            assert out[assigned_name][image].tolist() == [targets.get(index, -1) for index in range(len(rank))]
        else:
            assert out[matched_name][image].tolist() == [rank[source] for source, _ in matching.matched]
            assert out[target_name][image].tolist() == [row[target] for _, target in matching.matched]
    return fused


@FORMULATIONS
def test_sizes_of_pruned_tokens_can_be_lost(form: tuple[Target, Precision]) -> None:
    case = Case("prune", 15, 1, 4, sized=True, takes_over=False)
    check(session_of(case.lowered(*form), case), case, normal(1, 2, 15, 16), normal(2, 2, 15, 8))


# --- Fuse against the oracle, with and without sizes -------------------------------------------------------------


def amounts(tokens: int, prefix: int) -> list[int]:
    cap = reference.cap(tokens, prefix)
    return sorted({1, cap // 2, cap})


@pytest.mark.e2e
@FORMULATIONS
@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
@pytest.mark.parametrize(("method", "sized"), SIZED)
def test_every_method(form: tuple[Target, Precision], method: str, sized: bool, prefix: int) -> None:
    """Odd and even numbers of tokens; few, half and all that can leave."""
    for tokens in (14, 15):
        for removed in amounts(tokens, prefix):
            case = Case(method, tokens, prefix, removed, sized)
            check(session_of(case.lowered(*form), case), case, normal(1, 2, tokens, 16), normal(2, 2, tokens, 8))


@FORMULATIONS
@pytest.mark.parametrize(("tokens", "prefix"), [(2, 0), (3, 0), (3, 1), (4, 1), (4, 2), (7, 5), (8, 5)])
@pytest.mark.parametrize(("method", "sized"), SIZED)
def test_one_destination_or_one_source(
    form: tuple[Target, Precision], method: str, sized: bool, tokens: int, prefix: int
) -> None:
    case = Case(method, tokens, prefix, 1, sized)
    check(session_of(case.lowered(*form), case), case, normal(3, 3, tokens, 16), normal(4, 3, tokens, 8))


@FORMULATIONS
@pytest.mark.parametrize(("method", "sized"), SIZED)
def test_groups_of_every_size(form: tuple[Target, Precision], method: str, sized: bool) -> None:
    """Image g - 1 sends g sources to one destination and 20 - g to another, for g of 1 to 20."""
    prefix, removed = 1, 20
    tokens = prefix + 2 * (removed + 3)
    case = Case(method, tokens, prefix, removed, sized, dim=4)
    metric = np.zeros((removed, tokens, 4), dtype=np.float32)
    metric[:, 1::2, 0] = 1.0  # destinations: east
    metric[:, 2::2, 1] = 1.0  # sources: north, unlike any destination
    for image, group in enumerate(range(1, removed + 1)):
        leaving = [position for position in range(2, tokens, 2) if position not in (4, 10, tokens - 1)]
        metric[image, [1, *leaving[:group]]] = [0, 0, 1, 0]
        metric[image, [tokens - 2, *leaving[group:]]] = [0, 0, 0, 1]
        counts = [target for _, target in reference.match(metric[image], prefix, removed).matched]
        assert counts.count(1) == group
        assert counts.count(tokens - 2) == removed - group
    check(session_of(case.lowered(*form), case), case, normal(5, removed, tokens, 16), metric, exact=True)


@FORMULATIONS
@pytest.mark.parametrize(("method", "sized"), SIZED)
@pytest.mark.parametrize("prefix", [0, 1])
def test_exact_ties_go_to_the_lowest_index(
    form: tuple[Target, Precision], method: str, sized: bool, prefix: int
) -> None:
    for removed in (1, 4, 6):
        case = Case(method, 18, prefix, removed, sized, dim=4)
        metric = signs(6, 3, 18, 4)
        metric[2] = 1.0  # all alike
        check(session_of(case.lowered(*form), case), case, normal(7, 3, 18, 16), metric, exact=True)


@FORMULATIONS
@pytest.mark.parametrize(("method", "sized"), SIZED)
def test_zero_tokens_and_zero_keys(form: tuple[Target, Precision], method: str, sized: bool) -> None:
    case = Case(method, 13, 1, 4, sized, dim=4)
    x = normal(8, 4, 13, 16)
    metric = signs(9, 4, 13, 4)
    x[0] = 0
    x[1, ::2] = 0
    x[2, ::3] = 0
    metric[1] = 0
    metric[2, ::2] = 0
    metric[3, 1::2] = 0
    check(session_of(case.lowered(*form), case), case, x, metric, exact=True)


@FORMULATIONS
@pytest.mark.parametrize(("method", "sized"), SIZED)
def test_tokens_that_cancel(form: tuple[Target, Precision], method: str, sized: bool) -> None:
    """Each source is the opposite of its destination: the mean is exactly zero and has no direction."""
    case = Case(method, 9, 1, 3, sized, dim=4)
    x = normal(10, 2, 9, 16)
    x[:, 2::2] = -x[:, 1::2]
    metric = np.zeros((2, 9, 4), dtype=np.float32)
    for pair, position in enumerate(range(1, 9, 2)):
        metric[:, [position, position + 1], pair] = 1
    sizes = np.ones((2, 9, 1), dtype=np.float32)
    fused = check(session_of(case.lowered(*form), case), case, x, metric, sizes, exact=True)
    if method != "prune":
        assert_array_equal(fused[:, 2:5], 0)


@pytest.mark.parametrize(("method", "sized"), SIZED)
@pytest.mark.parametrize("length", [300.0, 10_000.0, 50_000.0])
def test_half_precision_does_not_overflow(method: str, sized: bool, length: float) -> None:
    """Norms far beyond 256, whose squares half precision cannot hold, and groups whose plain sum it cannot hold."""
    case = Case(method, 29, 1, 10, sized, dim=4)
    metric = signs(11, 2, 29, 4)
    metric[0] = 1.0  # ten sources on the first destination
    metric *= 2.0**13
    x = (np.random.default_rng(12).uniform(0.9, 1.0, size=(2, 29, 16)) * length).astype(np.float32)
    check(session_of(case.lowered(*HALF), case), case, x, metric, exact=True)


@pytest.mark.parametrize(("method", "sized"), SIZED)
def test_half_precision_keeps_small_tokens(method: str, sized: bool) -> None:
    """Norms whose squares half precision would flush to zero."""
    case = Case(method, 13, 1, 4, sized, dim=4)
    check(session_of(case.lowered(*HALF), case), case, 1e-3 * normal(13, 2, 13, 16), signs(14, 2, 13, 4), exact=True)


@FORMULATIONS
def test_one_file_serves_every_batch_size(form: tuple[Target, Precision]) -> None:
    for method, sized in (("mlerp", False), ("tome", True)):
        case = Case(method, 15, 2, 4, sized)
        session = session_of(case.lowered(*form), case)
        for batch in (1, 2, 7, 3):
            check(session, case, normal(batch, batch, 15, 16), normal(batch + 50, batch, 15, 8))


@pytest.mark.parametrize("opset", [18, 20, 23])
@pytest.mark.parametrize(
    ("target", "method", "sized"), [(Target.PORTABLE, "mlerp", False), (Target.ONNXRUNTIME, "tome", True)]
)
def test_newer_opsets(target: Target, method: str, sized: bool, opset: int) -> None:
    case = Case(method, 15, 1, 4, sized)
    model = lower(ir.from_proto(case.proto(opset=opset)), target, Precision.FP32)
    assert model.opset_imports[""] == opset
    check(session_of(model, case), case, normal(1, 2, 15, 16), normal(2, 2, 15, 8))


@pytest.mark.parametrize("target", Target)
def test_sizes_that_nobody_reads(target: Target) -> None:
    """As in the last block of a model: the second output is there, and unused."""
    case = Case("tome", 13, 1, 4, sized=True)
    proto = case.proto()
    del proto.graph.output[1]
    model = lower(ir.from_proto(proto), target, Precision.FP32)
    sizes = np.ones((2, 13, 1), dtype=np.float32)
    x, metric = normal(15, 2, 13, 16), normal(16, 2, 13, 8)
    expected, _ = reference.fuse(x, metric, prefix=1, r=4, method="tome", sizes=sizes[..., 0])
    got = session_of(model).run({"x": x, "metric": metric, "sizes": sizes})
    assert_allclose(got["fused"], expected, atol=1e-5)


def test_two_reductions_in_a_row_keep_apart() -> None:
    """Layers 0 and 1 of equal shape but for the tokens: names and constants do not collide."""
    first, second = Case("mlerp", 15, 1, 3, layer=0), Case("average", 12, 1, 3, layer=1)
    proto = first.proto()
    proto.graph.output[0].name = "out"
    node = proto.graph.node[0]
    next_node = second.proto().graph.node[0]
    next_node.input[:] = ["fused", "short"]
    next_node.output[:] = ["out"]
    next_node.name = "reduction_1"
    proto.graph.node.append(next_node)
    proto.graph.value_info.append(helper.make_tensor_value_info("fused", TensorProto.FLOAT, ["batch", 12, CHANNELS]))
    proto.graph.input.append(helper.make_tensor_value_info("short", TensorProto.FLOAT, ["batch", 12, DIM]))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", 9, CHANNELS]))
    assert node.output == ["fused"]
    for target in Target:
        model = lower(ir.from_proto(proto), target, Precision.FP32)
        x, metric, short = normal(1, 2, 15, 16), normal(2, 2, 15, 8), normal(3, 2, 12, 8)
        middle, _ = reference.fuse(x, metric, prefix=1, r=3, method="mlerp")
        expected, _ = reference.fuse(middle, short, prefix=1, r=3, method="average")
        got = session_of(model).run({"x": x, "metric": metric, "short": short})
        assert_allclose(got["out"], expected, atol=1e-5)
        produced = {value.name for node in model.graph for value in node.outputs}
        assert {decision_name(0, "kept"), decision_name(1, "kept")} <= produced


# --- Attention ---------------------------------------------------------------------------------------------------


def attention_model(
    scale: float, biased: bool, precision: Precision = Precision.FP32, *, keys: int = 7, bias_rows: int = 1
) -> onnx.ModelProto:
    kind = TYPES[precision]
    shapes: dict[str, list[Any]] = {
        "q": ["batch", 3, 5, 8],
        "k": ["batch", 3, keys, 8],
        "v": ["batch", 3, keys, 8],
        **({"bias": ["batch", 1, bias_rows, keys]} if biased else {}),
    }
    inputs = [helper.make_tensor_value_info(name, kind, shape) for name, shape in shapes.items()]
    outputs = [helper.make_tensor_value_info("y", kind, ["batch", 3, 5, 8])]
    op = "BiasedAttention" if biased else "Attention"
    node = helper.make_node(op, list(shapes), ["y"], name="attention", domain="tofu", scale=scale)
    return as_model([node], inputs, outputs)


def softmax_attention(q: Array, k: Array, v: Array, bias: Array | None, scale: float) -> Array:
    scores = np.einsum("bhnd,bhmd->bhnm", q, k) * scale + (0 if bias is None else bias)
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.einsum("bhnm,bhmd->bhnd", powers / powers.sum(axis=-1, keepdims=True), v)


@pytest.mark.parametrize("target", Target)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("keys", [1, 7, 8])
@pytest.mark.parametrize("scale", [8**-0.5, 1.0, 0.05])
def test_attention(target: Target, biased: bool, scale: float, keys: int) -> None:
    session = session_of(lower(ir.from_proto(attention_model(scale, biased, keys=keys)), target, Precision.FP32))
    for batch in (1, 4):
        feeds = {name: normal(seed, batch, 3, 5 if name == "q" else keys, 8) for seed, name in enumerate("qkv")}
        bias = np.log(np.random.default_rng(3).integers(1, 9, size=(batch, 1, 1, keys))).astype(np.float32)
        expected = softmax_attention(
            *(value.astype(np.float64) for value in feeds.values()), bias if biased else None, scale
        )
        got = session.run({**feeds, **({"bias": bias} if biased else {})})["y"]
        assert_allclose(got, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("keys", "padded"), [(7, True), (8, False)])
def test_an_odd_number_of_keys_is_padded_by_one_without_weight(keys: int, padded: bool) -> None:
    """Also where every score is far below zero."""
    model = lower(ir.from_proto(attention_model(1.0, False, keys=keys)), Target.TENSORRT_RTX, Precision.FP32)
    assert (census(model).get("Pad", 0) == 2) is padded
    q, k = np.full((1, 3, 5, 8), -1e4, np.float32), np.full((1, 3, keys, 8), 1e4, np.float32)
    v = normal(1, 1, 3, keys, 8)
    got = session_of(model).run({"q": q, "k": k, "v": v})["y"]
    assert_allclose(got, np.broadcast_to(v.mean(axis=2, keepdims=True), got.shape), rtol=0, atol=1e-6)


def test_attention_with_a_bias_for_every_query() -> None:
    model = lower(ir.from_proto(attention_model(0.3, True, bias_rows=5)), Target.PORTABLE, Precision.FP32)
    feeds = {name: normal(seed, 2, 3, 5 if name == "q" else 7, 8) for seed, name in enumerate("qkv")}
    bias = normal(5, 2, 1, 5, 7)
    expected = softmax_attention(*(value.astype(np.float64) for value in feeds.values()), bias, 0.3)
    assert_allclose(session_of(model).run({**feeds, "bias": bias})["y"], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("biased", [False, True])
def test_attention_in_half_precision_scales_before_it_multiplies(biased: bool) -> None:
    """Products of 8 x 100 x 100 = 80,000 are beyond half precision; a tenth of them is not."""
    model = lower(ir.from_proto(attention_model(0.1, biased, Precision.FP16)), Target.PORTABLE, Precision.FP16)
    q, k = np.full((1, 3, 5, 8), 100.0, np.float16), np.full((1, 3, 7, 8), 100.0, np.float16)
    v = normal(1, 1, 3, 7, 8).astype(np.float16)
    bias = np.log(np.arange(1, 8)).astype(np.float16).reshape(1, 1, 1, 7)
    got = session_of(model).run({"q": q, "k": k, "v": v, **({"bias": bias} if biased else {})})["y"]
    assert np.isfinite(got).all()
    assert bool((got <= v.max(axis=2, keepdims=True)).all() and (got >= v.min(axis=2, keepdims=True)).all())
    if not biased:
        expected = np.broadcast_to(v.astype(np.float64).mean(axis=2, keepdims=True), got.shape)
        assert_allclose(got.astype(np.float64), expected, atol=1e-2)


# --- GELU --------------------------------------------------------------------------------------------------------


def gelu_of(value: float, approximate: str) -> float:
    if approximate == "tanh":
        return 0.5 * value * (1 + math.tanh(math.sqrt(2 / math.pi) * (value + 0.044715 * value**3)))
    return 0.5 * value * (1 + math.erf(value / math.sqrt(2)))


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
@pytest.mark.parametrize("opset", [18, 20, 23])
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu(approximate: str, opset: int, precision: Precision) -> None:
    kind = TYPES[precision]
    given, answer = (helper.make_tensor_value_info(name, kind, ["batch", 1207]) for name in "xy")
    gelu = helper.make_node("Gelu", ["x"], ["y"], name="blocks.0.mlp.act", domain="tofu", approximate=approximate)
    for target in Target:
        model = lower(ir.from_proto(as_model([gelu], [given], [answer], opset)), target, precision)
        session = session_of(model)
        x = np.concatenate([np.linspace(-6, 6, 1201), [-1000, -100, -50, 50, 100, 1000]])[None]
        x = x.astype(session.inputs["x"].dtype)
        expected = [[gelu_of(value, approximate) for value in x[0].tolist()]]
        got = session.run({"x": x})["y"].astype(np.float64)
        half = precision is Precision.FP16
        assert_allclose(got, expected, rtol=2.0**-9 if half else 1e-6, atol=4e-3 if half else 1e-6)
        assert ("Gelu" in census(model)) is (opset >= 20)


# --- What a lowered graph is made of -----------------------------------------------------------------------------

ALL_CASES = [
    Case(method, tokens, prefix, removed, sized)
    for (method, sized), (tokens, prefix, removed) in itertools.product(SIZED, [(14, 1, 3), (13, 0, 6), (13, 5, 4)])
]
COMBINATIONS = list(itertools.product(Target, TYPES))


def lowered_everywhere() -> Iterator[tuple[Case, Target, Precision, onnx.ModelProto]]:
    for case, (target, precision) in itertools.product(ALL_CASES, COMBINATIONS):
        yield case, target, precision, ir.to_proto(case.lowered(target, precision))


@pytest.fixture(scope="module")
def everywhere() -> list[tuple[Case, Target, Precision, onnx.ModelProto]]:
    return list(lowered_everywhere())


def constants(proto: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def attributes(node: onnx.NodeProto) -> Mapping[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


RANDOM = {
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
    "Dropout",
}


def test_every_graph_is_valid_in_every_type(everywhere: list[Any]) -> None:
    """The full check infers the type of every value: a half-precision input to a float32 operator is an error."""
    for _, _, _, proto in everywhere:
        onnx.checker.check_model(proto, full_check=True)


def test_nothing_canonical_is_left(everywhere: list[Any]) -> None:
    for _, _, _, proto in everywhere:
        assert {node.domain for node in proto.graph.node} == {""}
        assert [entry.domain for entry in proto.opset_import] == [""]


def test_no_formulation_uses_what_its_target_lacks(everywhere: list[Any]) -> None:
    for case, target, precision, proto in everywhere:
        values = constants(proto)
        for node in proto.graph.node:
            assert node.op_type not in RANDOM, case
            if node.op_type == "TopK":
                assert values[node.input[1]].item() <= 3840
            if (target, precision) != (Target.ONNXRUNTIME, Precision.FP32):
                assert node.op_type not in REFUSED_BY_TENSORRT, (case, target)
                assert attributes(node).get("reduction", b"none") == b"none", (case, target)


def test_a_top_k_for_sorting_is_the_only_large_one(everywhere: list[Any]) -> None:
    """At most two a layer: one ranks the sources, the other sorts those that stay."""
    for case, _, _, proto in everywhere:
        sorts = [node for node in proto.graph.node if node.op_type == "TopK"]
        assert len(sorts) <= 2, case


def test_names_say_the_stage(everywhere: list[Any]) -> None:
    for case, _, _, proto in everywhere:
        names = [node.name for node in proto.graph.node]
        assert len(set(names)) == len(names)
        assert all(name.startswith(f"blocks.{case.layer}/fuse/") for name in names), case
        produced = [name for node in proto.graph.node for name in node.output]
        assert len(set(produced)) == len(produced)
        outside = {name for name in produced if not name.startswith(f"blocks.{case.layer}/fuse/")}
        assert outside == {value.name for value in proto.graph.output}


def test_decisions_have_their_names(everywhere: list[Any]) -> None:
    for case, _, _, proto in everywhere:
        produced = {name for node in proto.graph.node for name in node.output}
        kept, matched, target, assigned = (name in produced for name in decisions_of(case.layer))
        assert kept is (len(case.sources) > case.removed), case
        assert (matched or assigned) is case.aims, case
        assert matched is target, case
        assert not (matched and assigned), case


def test_graphs_are_sorted_and_have_no_dead_nodes(everywhere: list[Any]) -> None:
    for case, _, _, proto in everywhere:
        known = {value.name for value in proto.graph.input} | set(constants(proto))
        used = {value.name for value in proto.graph.output}
        for node in proto.graph.node:
            assert known.issuperset(name for name in node.input if name), case
            known.update(node.output)
            used.update(node.input)
        for node in proto.graph.node:
            assert used.intersection(node.output), (case, node.name)
        assert used.issuperset(constants(proto))


@pytest.mark.parametrize("sources", [RANKED_SOURCES, RANKED_SOURCES + 1])
def test_few_sources_are_ranked_and_many_sorted(sources: int) -> None:
    case = Case("average", 2 * sources, 0, 5)
    produced = {value.name for node in case.lowered(*ONEHOT).graph for value in node.outputs}
    assert (decision_name(case.layer, "assigned") in produced) is (sources == RANKED_SOURCES)
    check(session_of(case.lowered(*ONEHOT), case), case, normal(1, 1, 2 * sources, 16), normal(2, 1, 2 * sources, 8))


def test_lowering_twice_gives_the_same_bytes() -> None:
    for form in (ONEHOT, SCATTER, HALF):
        case = Case("mlerp", 15, 1, 4)
        first, second = (ir.to_proto(case.lowered(*form)).SerializeToString() for _ in range(2))
        assert first == second


def test_the_table_covers_every_target_and_precision() -> None:
    assert list(RECIPES) == COMBINATIONS
    assert recipe_for(Target.PORTABLE, Precision.INT8) == recipe_for(Target.PORTABLE, Precision.FP32)
    for target, precision in COMBINATIONS:
        formulation = recipe_for(target, precision).formulation
        assert (formulation.match is match_sort) is (target is Target.ONNXRUNTIME)
        assert (formulation.merge is merge_scatter) is ((target, precision) == (Target.ONNXRUNTIME, Precision.FP32))


@pytest.mark.parametrize("attend", [decomposed, aligned])
def test_rules_have_names_of_their_own(attend: Attend) -> None:
    rules = rules_for(attend, 18)
    assert len({rule.name for rule in rules}) == len(rules) == 5


# Scattering takes sorted sources, and has no kernel for half precision in onnxruntime.
EVERY_RECIPE = [
    pytest.param(
        precision, Recipe(Formulation(match, merge)), id=f"{precision.value} {match.__name__} {merge.__name__}"
    )
    for precision, match, merge in (
        (Precision.FP32, match_rank, merge_onehot),
        (Precision.FP32, match_sort, merge_onehot),
        (Precision.FP32, match_sort, merge_scatter),
        (Precision.FP16, match_rank, merge_onehot),
        (Precision.FP16, match_sort, merge_onehot),
    )
]


@pytest.mark.parametrize(("precision", "recipe"), EVERY_RECIPE)
@pytest.mark.parametrize("method", ["prune", "mlerp", "weighted-mlerp", "tome"])
def test_every_recipe_computes_what_the_definition_says(precision: Precision, recipe: Recipe, method: str) -> None:
    case = Case(method, 21, 1, 4, method in reference.WEIGHED)
    model = case.lowered(Target.PORTABLE, precision, recipe)
    check(session_of(model, case), case, normal(1, 2, 21, CHANNELS), normal(2, 2, 21, DIM))


# --- What does not fire ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", Target)
@pytest.mark.parametrize("sized", [False, True])
def test_an_unknown_method_is_refused(target: Target, sized: bool) -> None:
    case = replace(Case("mlerp", 13, 1, 3, sized), method="maximum")
    with pytest.raises(LoweringError, match=r"layer 3: unknown method 'maximum'") as error:
        case.lowered(target, Precision.FP32)
    assert target.value in str(error.value)


@pytest.mark.parametrize("target", Target)
def test_too_many_sources_are_refused(target: Target) -> None:
    with pytest.raises(LoweringError, match=r"layer 3 has 3841 source tokens.*at most 3840.*--image-size"):
        Case("prune", 7681, 0, 10).lowered(target, Precision.FP32)
    Case("prune", 7680, 0, 10).lowered(target, Precision.FP32)
    Case("mlerp", 7681, 1, 10).lowered(target, Precision.FP32)  # 3840 sources behind a class token


@pytest.mark.parametrize("target", Target)
@pytest.mark.parametrize("op", ["Unmerge", "fuse", "Fuse"])
def test_an_unknown_canonical_operator_is_refused(target: Target, op: str) -> None:
    """`Fuse` with one input is unknown too."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4, 8])
    proto = as_model([helper.make_node(op, ["x"], ["y"], name="odd", domain="tofu")], [x], [y])
    with pytest.raises(LoweringError, match=rf"{target.value}.*(odd|tofu::{op})"):
        lower(ir.from_proto(proto), target, Precision.FP32)


@pytest.mark.parametrize("target", Target)
def test_operators_of_the_same_name_elsewhere_are_left_alone(target: Target) -> None:
    proto = Case("mlerp", 13, 1, 3).proto()
    proto.graph.node[0].domain = "com.example"
    proto.opset_import[1].domain = "com.example"
    attention = attention_model(0.5, biased=False)
    attention.graph.node[0].domain = "com.example"
    attention.opset_import[1].domain = "com.example"
    for other in (proto, attention):
        model = lower(ir.from_proto(other), target, Precision.FP32)
        (node,) = model.graph
        assert node.domain == "com.example"
        assert node.op_type == other.graph.node[0].op_type
        assert len(node.attributes) == len(other.graph.node[0].attribute)


@pytest.mark.parametrize("target", Target)
def test_a_graph_without_canonical_nodes_computes_the_same(target: Target) -> None:
    """A matrix product, a TopK and a softmax attention by hand: no rule takes them for its own."""
    kind = TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info(name, kind, ["batch", 3, 7, 8]) for name in "qkv"]
    outputs = [helper.make_tensor_value_info("y", kind, ["batch", 3, 7, 8])]
    nodes = [
        helper.make_node("Transpose", ["k"], ["across"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q", "across"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "v"], ["y"]),
    ]
    proto = as_model(nodes, inputs, outputs)
    model = lower(ir.from_proto(proto), target, Precision.FP32)
    assert census(model) == {"MatMul": 2, "Softmax": 1, "Transpose": 1}
    feeds = {name: normal(seed, 2, 3, 7, 8) for seed, name in enumerate("qkv")}
    del proto.opset_import[1]
    before = open_session(proto.SerializeToString()).run(feeds)["y"]
    assert_array_equal(session_of(model).run(feeds)["y"], before)


def test_census_counts_nodes_by_operator_and_domain() -> None:
    counts = census(tiny.from_bytes(Case("mlerp", 13, 1, 3).proto().SerializeToString()))
    assert counts == {"tofu::Fuse": 1}
    lowered = census(Case("mlerp", 13, 1, 3).lowered(*ONEHOT))
    assert list(lowered.values()) == sorted(lowered.values(), reverse=True)
    assert lowered["TopK"] == 1
    assert census(Case("mlerp", 13, 1, 3).lowered(*SCATTER))["TopK"] == 2
