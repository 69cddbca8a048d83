"""Check what the builder made of quantised products and fused attention, which make an engine of a ViT fast.

Both can fail without an error: a product in FP16 with its factors dequantised before it, attention as two products
and a softmax. The kernels in the builder's log, or in the inspector, show it, with the names of their ONNX nodes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

import onnx

from tofu_export.engines.describing.kernel_log import KernelLog, KernelRecord
from tofu_export.engines.describing.stages import Kind, places
from tofu_export.engines.describing.unfused import reasons_of
from tofu_export.report.artifacts import FusionCounts, Fusions

__all__ = ["attention_products", "find_fusions"]

_ATTENTION = re.compile(r"_mha_v\d")
"""Pattern in the tactic of a fused attention: `_gemm_mha_v2_…`, or `_gemv_mha_v1` for one class token query."""
_GENERATED = "kgen"
"""Layer type of kernels that the compiler generates for element-wise arithmetic, never for products."""
_PRODUCTS = frozenset({"MatMul", "Gemm", "Conv"})
_QUANTIZED = frozenset({"int8", "fp8"})


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
    in_8_bits = _made(
        _quantized_attentions(graph, attentions),
        kernels.launched,
        lambda record: _is_fused(record) and bool(_QUANTIZED.intersection(record.input_dtypes)),
    )
    return Fusions(
        quantized_products=_made(_quantized_products(graph), kernels.launched, _multiplies_quantized),
        fused_attention=fused,
        quantized_attention=in_8_bits,
        why_not_fused=reasons_of(graph, fused.left),
    )


def _made(
    names: Sequence[str], kernels: Iterable[KernelRecord], is_right: Callable[[KernelRecord], bool]
) -> FusionCounts:
    done = {node for record in kernels if is_right(record) for node in record.onnx_nodes}
    left = tuple(name for name in names if name not in done)
    return FusionCounts(len(names), len(names) - len(left), left)


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
