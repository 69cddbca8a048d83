"""Every formulation of a reduction, and graphs and numbers to try them with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tofu_export.graph_patterns.canonical import decision_name
from tofu_export.graph_patterns.lowering import lower
from tofu_export.graph_patterns.recipe import Recipe
from tofu_export.options import Precision, Target
from tofu_export.system.ort import OrtSession, open_session

Array = NDArray[Any]

CHANNELS, DIM = 16, 8

TYPES = {
    Precision.FP32: TensorProto.FLOAT,
    Precision.FP16: TensorProto.FLOAT16,
    Precision.BF16: TensorProto.BFLOAT16,
}

ONEHOT = (Target.PORTABLE, Precision.FP32)

SCATTER = (Target.ONNXRUNTIME, Precision.FP32)

HALF = (Target.PORTABLE, Precision.FP16)

FORMULATIONS = pytest.mark.parametrize("form", [ONEHOT, SCATTER, HALF], ids=["onehot", "scatter", "half"])

RTOL = {np.dtype(np.float32): 1e-5, np.dtype(np.float16): 2.0**-8}
"""Of the largest token entry. Half: the weights, the products, the sum and the length are each rounded to 2^-11."""


@dataclass(frozen=True)
class Case:
    """One reduction, and the canonical graph of it: inputs x, metric and sizes, outputs fused and new_sizes."""

    method: str
    tokens: int
    prefix: int
    removed: int
    sized: bool = False
    layer: int = 3
    takes_over: bool = True
    channels: int = CHANNELS
    dim: int = DIM

    def proto(self, precision: Precision = Precision.FP32, opset: int = 18) -> onnx.ModelProto:
        kind = TYPES[precision]
        out = self.tokens - self.removed
        inputs = [
            helper.make_tensor_value_info("x", kind, ["batch", self.tokens, self.channels]),
            helper.make_tensor_value_info("metric", kind, ["batch", self.tokens, self.dim]),
        ]
        outputs = [helper.make_tensor_value_info("fused", kind, ["batch", out, self.channels])]
        if self.sized:
            inputs.append(helper.make_tensor_value_info("sizes", TensorProto.FLOAT, ["batch", self.tokens, 1]))
            outputs.append(helper.make_tensor_value_info("new_sizes", TensorProto.FLOAT, ["batch", out, 1]))
        node = helper.make_node(
            "Fuse",
            [value.name for value in inputs],
            [value.name for value in outputs],
            name="reduction",
            domain="tofu",
            r=self.removed,
            method=self.method,
            prefix=self.prefix,
            tokens=self.tokens,
            layer=self.layer,
            pruned_sizes="take-over" if self.takes_over else "lost",
        )
        return as_model([node], inputs, outputs, opset)

    def lowered(self, target: Target, precision: Precision, recipe: Recipe | None = None) -> ir.Model:
        return lower(ir.from_proto(self.proto(precision)), target, precision, recipe)

    @property
    def aims(self) -> bool:
        """True if the graph has to find a destination for what leaves."""
        return self.method != "prune" or (self.sized and self.takes_over)

    @cached_property
    def sources(self) -> list[int]:
        return [position for position in range(self.prefix, self.tokens) if position % 2 == 0]


def as_model(nodes: list[Any], inputs: list[Any], outputs: list[Any], opset: int = 18) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "test", inputs, outputs)
    domains = {node.domain for node in nodes if node.domain} | {"tofu"}
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in sorted(domains))]
    return helper.make_model(graph, opset_imports=imports, ir_version=9)


def session_of(model: ir.Model, case: Case | None = None) -> OrtSession:
    """A checked graph in onnxruntime, with the decisions that it has as outputs."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    if case is not None:
        produced = {name for node in proto.graph.node for name in node.output}
        for name in decisions_of(case.layer):
            if name in produced:
                proto.graph.output.append(helper.make_tensor_value_info(name, TensorProto.INT64, None))
    return open_session(proto.SerializeToString(), threads=1)


def decisions_of(layer: int) -> list[str]:
    return [decision_name(layer, kind) for kind in ("kept", "matched", "target", "assigned")]


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


REFUSED_BY_TENSORRT = {"NonZero", "Compress", "Unique", "DFT", "LpNormalization", "ScatterND"}
