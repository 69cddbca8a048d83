"""Check what the builder made of quantised products and fused attention, which make an engine of a ViT fast.

Both can fail without an error: a product in FP16 with its factors dequantised before it, attention as two products
and a softmax. The kernels in the builder's log, or in the inspector, show it, with the names of their ONNX nodes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx

from tofu_export.engines.describing.kernel_log import KernelLog, KernelRecord
from tofu_export.engines.describing.stages import Kind, places
from tofu_export.engines.describing.unfused import reasons_of
from tofu_export.options import Precision

__all__ = ["Fusions", "Made", "attention_products", "find_fusions"]

_ATTENTION = re.compile(r"_mha_v\d")
"""Pattern in the tactic of a fused attention: `_gemm_mha_v2_…`, or `_gemv_mha_v1` for one class token query."""
_GENERATED = "kgen"
"""Layer type of kernels that the compiler generates for element-wise arithmetic, never for products."""
_PRODUCTS = frozenset({"MatMul", "Gemm", "Conv"})
_QUANTIZED = frozenset({"int8", "fp8"})
_SHOWN = 3


@dataclass(frozen=True)
class Made:
    """Patterns of a file, and how many the engine fused.

    Attributes:
        wanted: number of patterns in the file.
        left: names of the nodes that were not fused as wanted.
    """

    wanted: int
    left: tuple[str, ...]

    @property
    def made(self) -> int:
        """Number of patterns that were fused."""
        return self.wanted - len(self.left)

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as plain values for the receipt."""
        return {"in_file": self.wanted, "in_engine": self.made, "left": list(self.left)}


@dataclass(frozen=True)
class Fusions:
    """Fusions in an engine, by its kernels.

    Attributes:
        products: products whose factors the file quantises; fused if a kernel multiplies in int8 or fp8.
        attentions: softmaxes in attention; fused if one kernel computes them with both products around them.
        quantized_attentions: attentions whose products the file quantises; fused if that kernel takes int8 or fp8.
        reasons: why attentions were not fused, by name, as far as their nodes tell.
    """

    products: Made
    attentions: Made
    quantized_attentions: Made
    reasons: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the fusions as plain values for the receipt and report.json."""
        return {
            "quantized_products": self.products.to_dict(),
            "fused_attention": self.attentions.to_dict(),
            "quantized_attention": self.quantized_attentions.to_dict(),
            "why_not_fused": dict(self.reasons),
        }

    def __str__(self) -> str:
        parts = [
            (self.products, "products quantised"),
            (self.attentions, "attentions fused"),
            (self.quantized_attentions, "attentions in 8 bits"),
        ]
        return ", ".join(f"{part.made} of {part.wanted} {words}" for part, words in parts if part.wanted)

    def remarks(self, precision: Precision) -> tuple[str, ...]:
        """Return notes on what was not fused as wanted. In FP32 no attention is fused.

        Args:
            precision: precision of the engine.
        """
        found = []
        if left := self.products.left:
            found.append(
                f"{len(left)} of {self.products.wanted} quantised products multiply in FP16 or FP32: {_some(left)}"
            )
        if left := self.quantized_attentions.left:
            found.append(
                f"{len(left)} of {self.quantized_attentions.wanted} quantised attentions do not multiply in 8 bits: "
                f"{_some(left)}"
            )
        if precision.traced is not Precision.FP32 and (left := self.attentions.left):
            found.append(
                f"{len(left)} of {self.attentions.wanted} attentions are not fused into one kernel, and read and write "
                f"their scores in memory: {_some(left)}{self._because(left)}"
            )
        return tuple(found)

    def _because(self, left: Sequence[str]) -> str:
        """Return the reasons of attentions, each once, in brackets; empty without any."""
        known = dict.fromkeys(self.reasons[name] for name in left if name in self.reasons)
        return f" ({'; '.join(known)})" if known else ""


def find_fusions(graph: onnx.GraphProto, kernels: KernelLog) -> Fusions | None:
    """Return what became of quantised products and attention; None if the kernels do not name their nodes.

    Args:
        graph: graph that the engine was built from.
        kernels: kernels of the engine.
    """
    if not any(record.onnx_nodes for record in kernels.launched):
        return None
    attentions = _attentions(graph)
    fused = _made(attentions, kernels.launched, _is_fused)
    return Fusions(
        _made(_quantized_products(graph), kernels.launched, _multiplies_quantized),
        fused,
        _made(
            _quantized_attentions(graph, attentions),
            kernels.launched,
            lambda record: _is_fused(record) and bool(_QUANTIZED.intersection(record.input_dtypes)),
        ),
        reasons_of(graph, fused.left),
    )


def _made(names: Sequence[str], kernels: Iterable[KernelRecord], is_right: Callable[[KernelRecord], bool]) -> Made:
    done = {node for record in kernels if is_right(record) for node in record.onnx_nodes}
    return Made(len(names), tuple(name for name in names if name not in done))


def _is_fused(record: KernelRecord) -> bool:
    return _ATTENTION.search(record.tactic) is not None


def _multiplies_quantized(record: KernelRecord) -> bool:
    return record.layer_type != _GENERATED and bool(_QUANTIZED.intersection(record.input_dtypes))


def _quantized_products(graph: onnx.GraphProto) -> list[str]:
    """Return the names of products with weights both of whose factors come from a DequantizeLinear."""
    wide = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    constants = {tensor.name for tensor in graph.initializer}
    return [
        node.name
        for node in graph.node
        if node.op_type in _PRODUCTS and wide.keys() >= {*node.input[:2]} and wide[node.input[1]] in constants
    ]


def _quantized_attentions(graph: onnx.GraphProto, attentions: Sequence[str]) -> list[str]:
    """Return the names of the softmaxes of attention whose result is quantised for the next product."""
    quantized = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    wanted = set(attentions)
    return [node.name for node in graph.node if node.name in wanted and quantized.intersection(node.output)]


def _attentions(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the softmaxes of attention, or of fused attention operators."""
    return [
        node.name
        for node, place in zip(graph.node, places(graph), strict=True)
        if node.op_type == "Attention" or (node.op_type == "Softmax" and place.kind is Kind.ATTENTION)
    ]


def attention_products(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the products of activations in attention, without those that match tokens."""
    constants = {tensor.name for tensor in graph.initializer}
    return [
        node.name
        for node, place in zip(graph.node, places(graph), strict=True)
        if node.op_type == "MatMul" and place.kind is Kind.ATTENTION and not constants.intersection(node.input)
    ]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" * (len(names) > _SHOWN)
    return ", ".join(names[:_SHOWN]) + more
