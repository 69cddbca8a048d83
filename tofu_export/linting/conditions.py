"""Conditions of the table of facts on a node. Each returns the problem in words, or None."""

from __future__ import annotations

import re

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from tofu_export.linting.finding import Condition
from tofu_export.linting.graph import DEFAULT_DOMAINS, Scope, attribute_int, attribute_text

__all__ = [
    "CONTRIB_DOMAINS",
    "MAX_TOPK",
    "adds_what_overwrites",
    "always",
    "antialiases",
    "canonical",
    "contrib",
    "custom_domain",
    "is_random",
    "joins_in_several_threads",
    "k_too_large",
    "more_indices_than_data",
    "no_cpu_kernel_in_bf16",
    "of_type",
    "overwrites_for_a_mean",
    "reads_what_nobody_computes",
    "reduces",
    "reduces_in",
    "trains",
    "zero_point",
]

MAX_TOPK = 3840
"""Largest K of a TopK, in every TensorRT flavour."""

_NOTE = "pkg.torch.onnx.fx_node"
_MEAN = re.compile(r"aten\.scatter_reduce\.two\]\(args = \(.*, mean\)")
"""Pattern of a mean in the metadata of torch's exporter on the origin of a node."""

CONTRIB_DOMAINS = frozenset({"com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc"})
ML_DOMAINS = frozenset({"ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training"})

BF16_CPU_KERNELS = frozenset(
    {
        "BitCast", "Cast", "CastLike", "Compress", "Concat", "ConcatFromSequence", "Constant", "ConstantOfShape",
        "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "If", "IsInf", "IsNaN", "LayerNormalization",
        "Loop", "Optional", "OptionalGetElement", "OptionalHasElement", "RandomNormalLike", "RandomUniformLike",
        "Reshape", "ReverseSequence", "Scan", "Scatter", "ScatterElements", "ScatterND", "SequenceAt",
        "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength", "Shape", "Shrink",
        "Sign", "Size", "Slice", "Split", "SplitToSequence", "Squeeze", "TensorScatter", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
"""Operators that onnxruntime's CPU provider runs in BF16. Source: the kernels that onnxruntime 1.31.1 registers."""

_NAMES: dict[int, str] = {
    TensorProto.FLOAT: "FP32",
    TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.DOUBLE: "FP64",
    TensorProto.STRING: "text",
    TensorProto.INT16: "INT16",
    TensorProto.UINT16: "UINT16",
    TensorProto.INT8: "INT8",
    TensorProto.INT32: "INT32",
}


def always(text: str) -> Condition:
    """Return a condition that every node meets."""
    return lambda node, scope: text


def of_type(text: str, *dtypes: int) -> Condition:
    """Return a condition on nodes in one of these element types."""

    def problem(node: onnx.NodeProto, scope: Scope) -> str | None:
        dtype = scope.dtype(node)
        return f"{text} in {_NAMES[dtype]}" if dtype in dtypes else None

    return problem


def reduces(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report a scatter that adds, multiplies or compares instead of overwriting."""
    reduction = attribute_text(node, "reduction", "none")
    return None if reduction == "none" else f"reduction {reduction!r} is not supported"


def joins_in_several_threads(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report a scatter with a reduction, in which onnxruntime's threads do not wait for each other."""
    if attribute_text(node, "reduction", "none") == "none":
        return None
    return "may lose updates: several threads join them to one place at the same time"


def reduces_in(dtype: int, *reductions: str) -> Condition:
    """Return a condition on scatters with one of these reductions, or any if none is named, in this element type."""

    def problem(node: onnx.NodeProto, scope: Scope) -> str | None:
        reduction = attribute_text(node, "reduction", "none")
        wrong = reduction in reductions if reductions else reduction != "none"
        if not wrong or scope.dtype(node) != dtype:
            return None
        return f"reduction {reduction!r} has no CPU kernel in {_NAMES[dtype]}"

    return problem


def overwrites_for_a_mean(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report a scatter that overwrites although torch's exporter notes that the model takes a mean."""
    if attribute_text(node, "reduction", "none") != "none":
        return None
    notes = (entry.value for entry in node.metadata_props if entry.key == _NOTE)
    if not any(_MEAN.search(note) for note in notes):
        return None
    return "overwrites, where the model in torch takes a mean (scatter_reduce): the file computes something else"


def adds_what_overwrites(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report a scatter onto zeros that is added to something: TorchScript's `index_add` and `accumulate=True`."""
    if attribute_text(node, "reduction", "none") != "none" or len(node.input) < 3:
        return None
    if "Add" not in scope.readers.get(node.output[0], ()) or not _is_zero(node.input[0], scope):
        return None
    places = scope.array(node.input[1])
    if places is not None and len(np.unique(places.reshape(-1, places.shape[-1]), axis=0)) == places.size:
        return None
    return "overwrites where a place is named twice, and is added afterwards: of several updates one counts"


def _is_zero(name: str, scope: Scope) -> bool:
    made = scope.makers.get(name)
    if made is not None and made.op_type == "ConstantOfShape":
        return all(not numpy_helper.to_array(entry.t).any() for entry in made.attribute if entry.name == "value")
    value = scope.array(name)
    return value is not None and not value.any()


def more_indices_than_data(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report a scatter with more indices along an axis than entries, which may overwrite each other."""
    data, index = (scope.shapes.get(name, ()) for name in node.input[:2]) if len(node.input) > 1 else ((), ())
    if attribute_text(node, "reduction", "none") != "none":
        return None
    for axis, (places, indices) in enumerate(zip(data, index, strict=False)):
        if isinstance(places, int) and isinstance(indices, int) and indices > places:
            return f"has {indices} indices along axis {axis}, which has {places} places"
    return None


def k_too_large(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report a TopK beyond the limit of TensorRT."""
    k = scope.number(node.input[1]) if len(node.input) > 1 else attribute_int(node, "k")
    return None if k is None or k <= MAX_TOPK else f"K is {k}, TensorRT allows at most {MAX_TOPK}"


def antialiases(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report a Resize with an antialiasing filter."""
    return "antialias is not supported" if attribute_int(node, "antialias") else None


def no_cpu_kernel_in_bf16(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report an operator in BF16 that only GPU providers run."""
    if node.domain not in DEFAULT_DOMAINS or node.op_type in BF16_CPU_KERNELS:
        return None
    named = [name for name in (*node.input, *node.output) if name]
    if all(scope.dtypes.get(name) != TensorProto.BFLOAT16 for name in named):
        return None
    return "has no CPU kernel in BF16"


def canonical(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report a node that represents a token reduction and is not lowered yet."""
    return "is a canonical Token Fusion node, which no runtime knows" if node.domain == "tofu" else None


def contrib(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report a contrib operator of onnxruntime."""
    if node.domain not in CONTRIB_DOMAINS or (node.domain, node.op_type) in scope.functions:
        return None
    if node.op_type in ("Gelu",):  # looked up by its name, which the default domain has too
        return None
    return "is an operator of onnxruntime's own, for which the parser has no importer"


def custom_domain(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report an operator that is in no public set, and that the file does not define itself."""
    known = (*DEFAULT_DOMAINS, "tofu", *CONTRIB_DOMAINS, *ML_DOMAINS)
    if node.domain in known or (node.domain, node.op_type) in scope.functions:
        return None
    return f"is of the domain {node.domain!r}, which is not a public one"


def is_random(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report an operator whose result differs between runtimes."""
    return "draws random numbers: every runtime, and mostly every run, gives another result, whatever the seed"


def trains(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report a Dropout in training mode."""
    return "is in training mode" if len(node.input) > 2 and scope.number(node.input[2]) else None


def zero_point(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report a quantisation that is not symmetric."""
    value = scope.array(node.input[2]) if len(node.input) > 2 else None
    return None if value is None or not value.any() else "has a zero point other than 0"


def reads_what_nobody_computes(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report an input that no node computes."""
    missing = [name for name in node.input if name and name not in scope.names]
    return f"reads {', '.join(missing)}, which nothing computes" if missing else None
