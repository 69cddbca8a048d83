"""Fuse nodes that carry positions, alone in a graph, in onnxruntime against the oracle."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from onnx import TensorProto, helper

from tests import reference
from tests.graph_patterns.formulations import FORMULATIONS, TYPES, as_model, normal
from tofu_export.errors import LoweringError
from tofu_export.graph_patterns.lowering import lower
from tofu_export.options import Precision, Target
from tofu_export.system.ort import open_session

CHANNELS, DIM = 16, 8


def placed(method: str, tokens: int, prefix: int, removed: int, sized: bool, precision: Precision) -> onnx.ModelProto:
    kind, out = TYPES[precision], tokens - removed
    companions = [("sizes", TensorProto.FLOAT)] if sized else []
    companions.append(("positions", TensorProto.INT64))
    inputs = [
        helper.make_tensor_value_info("x", kind, ["batch", tokens, CHANNELS]),
        helper.make_tensor_value_info("metric", kind, ["batch", tokens, DIM]),
        *(helper.make_tensor_value_info(name, dtype, ["batch", tokens, 1]) for name, dtype in companions),
    ]
    outputs = [
        helper.make_tensor_value_info("fused", kind, ["batch", out, CHANNELS]),
        *(helper.make_tensor_value_info(f"new_{name}", dtype, ["batch", out, 1]) for name, dtype in companions),
    ]
    node = helper.make_node(
        "Fuse",
        ["x", "metric", "sizes" if sized else "", "positions"],
        [value.name for value in outputs],
        name="reduction",
        domain="tofu",
        r=removed,
        method=method,
        prefix=prefix,
        tokens=tokens,
        layer=2,
        pruned_sizes="take-over",
    )
    return as_model([node], inputs, outputs)


@FORMULATIONS
@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize("method", reference.METHODS)
def test_positions_follow_the_tokens(form: tuple[Target, Precision], method: str, sized: bool, prefix: int) -> None:
    if method in reference.WEIGHED and not sized:
        return  # it cannot do without sizes
    for tokens, removed in itertools.product((14, 15), (1, 4)):
        model = lower(ir.from_proto(placed(method, tokens, prefix, removed, sized, form[1])), *form)
        onnx.checker.check_model(ir.to_proto(model), full_check=True)
        session = open_session(ir.to_proto(model).SerializeToString(), threads=1)
        dtype = session.inputs["x"].dtype
        x, metric = normal(1, 2, tokens, CHANNELS).astype(dtype), normal(2, 2, tokens, DIM).astype(dtype)
        sizes = np.random.default_rng(3).integers(1, 9, size=(2, tokens, 1)).astype(np.float32)
        positions = np.random.default_rng(4).permuted(np.tile(np.arange(100), (2, 1)), axis=1)[:, :tokens, None]
        feeds: dict[str, Any] = {"x": x, "metric": metric, "sizes": sizes, "positions": positions}
        out = session.run({name: feeds[name] for name in session.inputs})
        for image in range(2):
            matching = reference.match(metric[image], prefix, removed)
            order = [*range(prefix), *matching.kept, *matching.destinations]
            assert_array_equal(out["new_positions"][image, :, 0], positions[image, order, 0])
            tokens_one, sizes_one = reference.apply_matching(
                x[image], matching, method, prefix, sizes[image, :, 0] if sized else None
            )
            assert_allclose(out["fused"][image], tokens_one, rtol=0, atol=3e-2 if dtype == np.float16 else 1e-5)
            if sized:
                assert_array_equal(out["new_sizes"][image, :, 0], sizes_one)


@pytest.mark.parametrize("target", Target)
def test_positions_that_nobody_reads_leave_no_node(target: Target) -> None:
    proto = placed("mlerp", 15, 1, 4, False, Precision.FP32)
    del proto.graph.output[1]  # the node still has it
    model = lower(ir.from_proto(proto), target, Precision.FP32)
    assert not any("positions" in str(value.name) for node in model.graph for value in node.outputs)


@pytest.mark.parametrize("sized", [False, True])
def test_unknown_methods_are_refused(sized: bool) -> None:
    with pytest.raises(LoweringError, match="unknown method 'mean'"):
        lower(ir.from_proto(placed("mean", 15, 1, 4, sized, Precision.FP32)), Target.PORTABLE, Precision.FP32)
